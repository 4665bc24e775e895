package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Machine is a virtual machine, which does what its order says and is gone.
type Machine struct {
	Kernel   *Kernel
	CPUs     int
	MemoryMB int
	Append   string   // to the kernel's command line
	Programs []string // of this host, with the libraries they take; or scripts
	Files    []File
	Order
	Console io.Writer // is told what the kernel logs; nil: shown only if the machine dies
}

// File is a file or a folder of this host that the guest has as well.
type File struct{ Host, Guest string }

// Run boots the machine and hands on what its guest reports. It returns an error if the
// guest has not done all jobs, however these have ended.
func (m *Machine) Run(ctx context.Context, report func(Event)) error {
	q, err := m.Kernel.host.qemu(ctx, m.Kernel.Arch)
	if err != nil {
		return err
	}
	fast, err := m.Kernel.host.accelerate(ctx, q, m.Kernel)
	if err != nil {
		return err
	}
	return m.boot(ctx, q, fast, report)
}

// Accelerated tells whether machines of this kernel run by KVM.
func (k *Kernel) Accelerated(ctx context.Context) (bool, error) {
	q, err := k.host.qemu(ctx, k.Arch)
	if err != nil {
		return false, err
	}
	return k.host.accelerate(ctx, q, k)
}

func (m *Machine) boot(ctx context.Context, q *qemu, accelerated bool, report func(Event)) (err error) {
	dir, err := os.MkdirTemp("", "torbpf-vm-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	initrd, console := filepath.Join(dir, "initrd"), filepath.Join(dir, "console")
	if err := m.pack(ctx, initrd); err != nil {
		return err
	}
	args, err := m.arguments(initrd, console, accelerated)
	if err != nil {
		return err
	}
	ended := watch(ctx, q.command(args...), report)
	log, err := os.ReadFile(console)
	if err == nil && m.Console != nil {
		_, err = m.Console.Write(log)
	}
	if ended != nil {
		return fmt.Errorf("machine with %s: %w\n%s", m.Kernel.Release, ended, tail(log, 60))
	}
	return err
}

// watch runs qemu to its end and hands on what comes from the guest.
func watch(ctx context.Context, cmd *exec.Cmd, report func(Event)) error {
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	from, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if _, err := cmd.StdinPipe(); err != nil { // at whose end qemu would take the port for closed
		return err
	}
	runtime.LockOSThread() // whose end would be the machine's
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	done, err := false, error(nil)
	for events := json.NewDecoder(from); err == nil && !done; {
		var e Event
		if err = events.Decode(&e); err != nil {
			err = fmt.Errorf("it ended before its jobs did (%w)", err)
			break
		}
		if e.Error != "" {
			err = fmt.Errorf("the guest: %s", e.Error)
		}
		report(e)
		done = e.Done
	}
	if !done {
		_ = cmd.Process.Kill()
	}
	if ended := cmd.Wait(); !done {
		err = errors.Join(err, ended, ctx.Err())
	}
	if err != nil && complaints.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(complaints.String()))
	}
	return err
}

// tail returns the last lines of a text.
func tail(text []byte, lines int) []byte {
	all := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], nil)
}

// arguments are those of qemu.
func (m *Machine) arguments(initrd, console string, accelerated bool) ([]string, error) {
	image, err := m.Kernel.find("vmlinuz")
	if err != nil {
		return nil, err
	}
	s := systems[m.Kernel.Arch]
	accel, cpu := "tcg,thread=multi", s.cpu
	if accelerated {
		accel, cpu = "kvm", "host"
	}
	line := "console=" + s.console + " panic=-1 oops=panic random.trust_cpu=on " + m.Append
	return append(slices.Clone(s.machine),
		"-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(m.CPUs), "-m", strconv.Itoa(m.MemoryMB),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none",
		"-kernel", image, "-initrd", initrd, "-append", line, "-serial", "file:"+console,
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=report,signal=off", "-device", "virtserialport,chardev=report,name="+Port,
	), nil
}

// pack writes the initramfs: the kernel's, and after it what this machine has of its own.
func (m *Machine) pack(ctx context.Context, to string) error {
	base, err := m.Kernel.initramfs(ctx)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	from, err := os.Open(base)
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := io.Copy(f, from); err != nil {
		return err
	}
	order, err := json.Marshal(m.Order)
	if err != nil {
		return err
	}
	a := newArchive(f)
	a.bytes(OrderPath, order)
	for _, file := range m.Files {
		if info, err := os.Stat(file.Host); err == nil && info.IsDir() {
			a.tree(file.Guest, file.Host)
			continue
		}
		a.program(file.Guest, file.Host)
	}
	for _, name := range m.Programs {
		path, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("a program for the guest: %w", err)
		}
		a.program(path, path)
	}
	if err := a.close(); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	return f.Close()
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// program copies a file and, if it is a program, the libraries that it takes.
func (a *archive) program(name, from string) {
	a.file(name, from)
	out, err := exec.Command("ldd", from).Output()
	if err != nil { // "not a dynamic executable"
		return
	}
	for _, m := range library.FindAllSubmatch(out, -1) {
		a.file(string(m[1]), string(m[1]))
	}
}
