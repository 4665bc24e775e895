package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// oldestQemu is the oldest whose emulation is to be trusted: 7.2 breaks newer kernels now
// and then ("Oops: int3"). With KVM any will do.
const oldestQemu = 9

// system is what an architecture's machine is called, and made of.
type system struct {
	qemu    string // the program
	pkg     string // Debian's
	machine []string
	console string
	cpu     string // when it is emulated
}

var systems = map[string]system{
	"amd64": {"qemu-system-x86_64", "qemu-system-x86", []string{"-machine", "pc"}, "ttyS0", "max"},
	"arm64": {"qemu-system-aarch64", "qemu-system-arm", []string{"-machine", "virt"}, "ttyAMA0", "max,pauth-impdef=on"},
}

// qemu is a program that runs machines, and what it takes.
type qemu struct {
	path string
	env  []string
	args []string
}

func (q *qemu) command(args ...string) *exec.Cmd {
	cmd := exec.Command(q.path, append(append([]string{}, q.args...), args...)...)
	cmd.Env = append(os.Environ(), q.env...)
	return cmd
}

var qemuVersion = regexp.MustCompile(`version (\d+)\.`)

// version returns the first number of its version.
func (q *qemu) version() (int, error) {
	out, err := q.command("--version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w: %s", q.path, err, out)
	}
	m := qemuVersion.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s --version tells none: %s", q.path, out)
	}
	return strconv.Atoi(string(m[1]))
}

// qemu returns the host's if that is new enough, else one that is unpacked in the cache.
func (c *Cache) qemu(ctx context.Context, arch string) (*qemu, error) {
	s, known := systems[arch]
	if !known {
		return nil, fmt.Errorf("no machine of architecture %s is known", arch)
	}
	if path, err := exec.LookPath(s.qemu); err == nil {
		q := &qemu{path: path}
		if v, err := q.version(); err == nil && v >= oldestQemu {
			return q, nil
		}
	}
	dir := filepath.Join(c.dir, s.pkg)
	if _, err := os.Stat(filepath.Join(dir, "done")); err != nil {
		c.Progress("unpacking %s", s.pkg)
		c.fetched = true
		if err := c.unpackQemu(ctx, s, dir); err != nil {
			return nil, fmt.Errorf("get %s: %w", s.qemu, err)
		}
	}
	libs := filepath.Join(dir, "usr/lib", multiarch())
	q := &qemu{
		path: filepath.Join(dir, "usr/bin", s.qemu),
		env:  []string{"LD_LIBRARY_PATH=" + libs + ":" + filepath.Join(dir, "lib", multiarch())},
		args: []string{"-L", filepath.Join(dir, "usr/share/seabios"), "-L", filepath.Join(dir, "usr/share/qemu")},
	}
	_, err := q.version()
	return q, err
}

// multiarch is how Debian calls the folder of this host's libraries.
func multiarch() string {
	return map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
}

// unpackQemu fetches qemu from the release that this host runs, or its backports.
func (c *Cache) unpackQemu(ctx context.Context, s system, dir string) error {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return err
	}
	name := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\w+)$`).FindSubmatch(text)
	if !regexp.MustCompile(`(?m)^ID=debian$`).Match(text) || name == nil {
		return fmt.Errorf("this host is not Debian: install %s %d or newer", s.qemu, oldestQemu)
	}
	release := string(name[1])
	all := append(withUpdates(release), suite{release + "-updates", "debian"}, suite{release + "-backports", "debian"})
	p, err := openPackages(ctx, filepath.Join(c.dir, "lists", s.pkg), runtime.GOARCH, "/var/lib/dpkg/status", all...)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	if err := p.unpackAll(ctx, release+"-backports", dir, s.pkg); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "done"), nil, 0o644)
}

// trialLasts is how long a guest may take to boot with KVM; it takes a second where that works.
const trialLasts = 30 * time.Second

// accelerate tells whether KVM runs a kernel here. That it can be opened does not say so:
// within a virtual machine it may be there and run nothing.
func (c *Cache) accelerate(ctx context.Context, q *qemu, k *Kernel) (bool, error) {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil || k.Arch != runtime.GOARCH {
		return false, nil
	}
	kvm.Close()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, err
	}
	memo := filepath.Join(c.dir, "kvm-"+strings.TrimSpace(string(boot)))
	if text, err := os.ReadFile(memo); err == nil {
		return string(text) == "works", nil
	}
	c.Progress("trying whether KVM runs guests here")
	ctx, cancel := context.WithTimeout(ctx, trialLasts)
	defer cancel()
	m := &Machine{Kernel: k, CPUs: 1, MemoryMB: 1024, Console: io.Discard}
	booted := false
	trial := m.boot(ctx, q, true, func(e Event) { booted = booted || e.Booted != "" })
	found := "works"
	if trial != nil || !booted {
		found = "fails"
		c.Progress("it does not (%v): machines are emulated", trial)
	}
	return found == "works", os.WriteFile(memo, []byte(found), 0o644)
}
