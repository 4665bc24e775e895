package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// suites are those in which a kernel is looked for by its version.
var suites = []string{"bullseye", "bookworm", "trixie", "trixie-backports"}

// WithDrivers ends the name of a kernel that is not one for clouds.
const WithDrivers = "-drivers"

// Kernel is an unpacked kernel.
type Kernel struct {
	Name    string // as it was asked for
	Package string // Debian's; "" of a folder
	Version string // the package's
	Release string // as uname -r says
	Arch    string // as Go calls it

	dir  string
	host *Cache
}

// Cache is a folder in which kernels and qemu are unpacked.
type Cache struct {
	dir     string
	making  sync.Mutex // of archives for machines, several of which may begin at once
	fetched bool       // anything has been downloaded
	// Progress, if set, is told what takes long.
	Progress func(format string, args ...any)
}

// OpenCache opens the cache in a folder, or the user's own if that is "".
func OpenCache(dir string) (*Cache, error) {
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a folder for kernels: %w: name one", err)
		}
		dir = filepath.Join(base, "torbpf-vm")
	}
	if err := os.MkdirAll(filepath.Join(dir, "kernels"), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for kernels: %w", err)
	}
	return &Cache{dir: dir, Progress: func(string, ...any) {}}, nil
}

// Empty tells whether it has no kernel.
func (c *Cache) Empty() bool {
	all, err := filepath.Glob(filepath.Join(c.dir, "kernels", "*", "kernel.json"))
	return err == nil && len(all) == 0
}

// Fetched tells whether a kernel or qemu has been downloaded since the cache was opened.
func (c *Cache) Fetched() bool { return c.fetched }

// Kernel finds a kernel and unpacks it, unless it is in the cache. Its name is
//
//	5.10, 6.1, …     the newest package of that version
//	6.1-drivers, …   the same as for real hardware, which has more than that of clouds: PPPoE
//	newest           the newest of all
//	SUITE/PACKAGE    that package
//	a folder         with boot/vmlinuz-RELEASE and lib/modules/RELEASE below it
func (c *Cache) Kernel(ctx context.Context, name, arch string) (*Kernel, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		k := &Kernel{Name: name, Arch: arch, dir: name, host: c}
		return k, k.findRelease()
	}
	from, pkg, err := c.find(ctx, name, arch)
	if err != nil {
		return nil, fmt.Errorf("find kernel %s: %w", name, err)
	}
	k := &Kernel{Arch: arch, dir: filepath.Join(c.dir, "kernels", pkg), host: c}
	known := filepath.Join(k.dir, "kernel.json")
	if text, err := os.ReadFile(known); err == nil && json.Unmarshal(text, k) == nil {
		k.Name = name
		return k, nil
	}
	k.Name, k.Package = name, pkg
	c.Progress("unpacking %s of %s", pkg, from)
	c.fetched = true
	if err := k.unpack(ctx, from); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", pkg, err)
	}
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return k, os.WriteFile(known, text, 0o644)
}

// debianArch is how Debian calls an architecture.
func debianArch(arch string) string { return arch } // alike for amd64 and arm64

var namedPackage = regexp.MustCompile(`^([a-z-]+)/(linux-image-[a-z0-9.+~-]+)$`)

// find returns the suite and the package that a name means, as found within the last week.
func (c *Cache) find(ctx context.Context, name, arch string) (from, pkg string, err error) {
	if m := namedPackage.FindStringSubmatch(name); m != nil {
		return m[1], m[2], nil
	}
	wanted, drivers := strings.CutSuffix(name, WithDrivers)
	if wanted != "newest" && !regexp.MustCompile(`^\d+\.\d+$`).MatchString(wanted) {
		return "", "", errors.New(`a kernel is called 6.12, 6.12-drivers, "newest", SUITE/PACKAGE or by a folder with an unpacked one`)
	}
	memo := filepath.Join(c.dir, "kernels", name+"-"+arch)
	if info, err := os.Stat(memo); err == nil && time.Since(info.ModTime()) < listsLast {
		text, err := os.ReadFile(memo)
		from, pkg, found := strings.Cut(strings.TrimSpace(string(text)), "/")
		if err == nil && found {
			return from, pkg, nil
		}
	}
	best := []int(nil)
	for _, s := range suites {
		images, err := c.images(ctx, s, arch, drivers)
		if err != nil {
			return "", "", err
		}
		for _, image := range images {
			version := numbers(image)
			if wanted != "newest" && wanted != fmt.Sprintf("%d.%d", version[0], version[1]) || !newer(version, best) {
				continue
			}
			best, from, pkg = version, s, image
		}
	}
	if pkg == "" {
		return "", "", fmt.Errorf("there is none in %s", strings.Join(suites, ", "))
	}
	return from, pkg, os.WriteFile(memo, []byte(from+"/"+pkg), 0o644)
}

// images lists a suite's kernels for clouds, which have no drivers and so are small; or those that have.
func (c *Cache) images(ctx context.Context, name, arch string, drivers bool) ([]string, error) {
	p, err := c.lists(ctx, name, arch)
	if err != nil {
		return nil, err
	}
	all, err := p.names(ctx, "linux-image-")
	if err != nil {
		return nil, err
	}
	var images []string
	for _, image := range all {
		if isImage(image, arch, drivers) {
			images = append(images, image)
		}
	}
	return images, nil
}

var imageName = regexp.MustCompile(`^linux-image-\d+\.\d+\.\d+[0-9a-z.+~-]*$`)

// isImage tells whether a package is a kernel for clouds, or one with drivers; of neither kind are those for real time.
func isImage(name, arch string, drivers bool) bool {
	version, ours := strings.CutSuffix(name, "-"+debianArch(arch))
	version, cloud := strings.CutSuffix(version, "-cloud")
	return ours && cloud != drivers && !strings.HasSuffix(version, "-rt") && imageName.MatchString(version)
}

func (c *Cache) lists(ctx context.Context, name, arch string) (*packages, error) {
	return openPackages(ctx, filepath.Join(c.dir, "lists", name+"-"+arch), debianArch(arch), nothingInstalled, withUpdates(name)...)
}

var digits = regexp.MustCompile(`\d+`)

// numbers are those in a name, by which versions are compared.
func numbers(name string) []int {
	var all []int
	for _, d := range digits.FindAllString(name, -1) {
		n, err := strconv.Atoi(d)
		if err != nil {
			n = 0 // longer than any version's
		}
		all = append(all, n)
	}
	return all
}

// newer tells whether a version comes after another.
func newer(a, b []int) bool {
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return i >= len(b) || a[i] > b[i]
		}
	}
	return false
}

var kernelPart = regexp.MustCompile(`linux-(?:base|binary|modules)-\d[^ ,]*`)

// unpack fetches a kernel: since 6.19 Debian's image package is empty, and has its parts in
// others. An older one may name a part that the archive has no more, and holds all of a kernel itself.
func (k *Kernel) unpack(ctx context.Context, from string) error {
	p, err := k.host.lists(ctx, from, k.Arch)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(k.dir), os.MkdirAll(k.dir, 0o755)); err != nil {
		return err
	}
	control, err := p.unpack(ctx, k.Package, k.dir)
	if err != nil {
		return err
	}
	k.Version = strings.TrimSpace(strings.TrimPrefix(strings.SplitN(control, "\n", 2)[0], "Version:"))
	for _, part := range kernelPart.FindAllString(control, -1) {
		there, err := p.has(ctx, part)
		if err == nil && there {
			_, err = p.unpack(ctx, part, k.dir)
		}
		if err != nil {
			return err
		}
	}
	if _, err := k.find("vmlinuz"); err != nil {
		return err
	}
	return k.findRelease()
}

// findRelease reads the release from where the modules are.
func (k *Kernel) findRelease() error {
	dirs, err := filepath.Glob(filepath.Join(k.modulesDir("*"), "kernel"))
	if err != nil || len(dirs) != 1 {
		return fmt.Errorf("%s is to have the modules of one kernel in lib/modules, it has those of %d", k.dir, len(dirs))
	}
	k.Release = filepath.Base(filepath.Dir(dirs[0]))
	return nil
}

// modulesDir is where the modules of a release are: below usr in newer packages.
func (k *Kernel) modulesDir(release string) string {
	if merged, err := filepath.Glob(filepath.Join(k.dir, "usr/lib/modules", "*")); err == nil && len(merged) > 0 {
		return filepath.Join(k.dir, "usr/lib/modules", release)
	}
	return filepath.Join(k.dir, "lib/modules", release)
}

// find returns the path of a file of the kernel's by how its name begins.
func (k *Kernel) find(prefix string) (string, error) {
	var found string
	err := filepath.WalkDir(k.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(d.Name(), prefix) {
			found = p
			return fs.SkipAll
		}
		return err
	})
	if err == nil && found == "" {
		err = fmt.Errorf("there is no %s in %s", prefix, k.dir)
	}
	return found, err
}

// Config returns what the kernel was built with, as /boot/config has it; newer packages have
// it beside the modules.
func (k *Kernel) Config() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(k.modulesDir(k.Release), "config"))
	if !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	path, err := k.find("config-")
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// initramfs returns the path of the archive with the kernel's modules and /init.
func (k *Kernel) initramfs(ctx context.Context) (string, error) {
	k.host.making.Lock()
	defer k.host.making.Unlock()
	guest, err := k.host.buildGuest(ctx, k.Arch)
	if err != nil {
		return "", err
	}
	made := filepath.Join(k.host.dir, "kernels", filepath.Base(k.dir)+"-"+k.Arch+".cpio")
	if archive, err := os.Stat(made); err == nil {
		if init, err := os.Stat(guest); err == nil && archive.ModTime().After(init.ModTime()) {
			return made, nil
		}
	}
	modules, err := readModules(k.modulesDir(k.Release))
	if err != nil {
		return "", err
	}
	builtin, err := readBuiltin(k.modulesDir(k.Release))
	if err != nil {
		return "", err
	}
	f, err := os.Create(made + ".new")
	if err != nil {
		return "", err
	}
	defer f.Close()
	a := newArchive(f)
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "root", "out", "etc", "var"} {
		a.dir(dir)
	}
	for _, dir := range usr {
		a.dir("usr/" + dir)
		a.link(dir, "usr/"+dir)
	}
	a.file("init", guest)
	a.link("sbin/modprobe", "/init")
	a.link("var/run", "/run")
	a.bytes(ModulesPath, index(modules, builtin))
	for _, m := range modules {
		a.bytes(m.path, m.image)
	}
	if err := a.close(); err != nil {
		return "", fmt.Errorf("write the initramfs: %w", err)
	}
	return made, os.Rename(made+".new", made)
}

// buildGuest builds /init, unless it is the same as before.
func (c *Cache) buildGuest(ctx context.Context, arch string) (string, error) {
	made := filepath.Join(c.dir, "guest-"+arch)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", made+".new", "github.com/torbpf/torbpf/testnet/cmd/vmguest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's first process: %w: %s", err, out)
	}
	before, err := os.ReadFile(made)
	after, err2 := os.ReadFile(made + ".new")
	if err == nil && err2 == nil && string(before) == string(after) {
		return made, os.Remove(made + ".new")
	}
	return made, os.Rename(made+".new", made)
}
