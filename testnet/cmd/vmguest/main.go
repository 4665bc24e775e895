// Command vmguest is the first process of a virtual machine (package testnet/vm), and what
// the kernel calls as modprobe there. It runs what its order says, reports it, and restarts
// the machine, which ends it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet/vm"
)

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		if err := modprobe(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
			os.Exit(1)
		}
		return
	}
	err := guest()
	if err != nil { // onto the console, which is all there is
		fmt.Println("vmguest:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("vmguest: restart:", err)
	}
}

// guest does all that there is to do.
func guest() error {
	if err := setUp(); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	port, err := openPort()
	if err != nil {
		return fmt.Errorf("open the port to the host: %w", err)
	}
	defer port.Close()
	report := &reporter{events: json.NewEncoder(port)}
	order, err := readOrder()
	if err == nil {
		err = hide(order.Hide)
	}
	if err != nil {
		return report.send(vm.Event{Error: err.Error()})
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	if err := report.send(vm.Event{Booted: unix.ByteSliceToString(name.Release[:]), Uptime: uptime()}); err != nil {
		return err
	}
	for i, job := range order.Jobs {
		if err := run(i, job, report); err != nil {
			return report.send(vm.Event{Job: i, Error: err.Error()})
		}
	}
	if err := sendFiles(report); err != nil {
		return report.send(vm.Event{Error: err.Error()})
	}
	return report.send(vm.Event{Done: true})
}

func readOrder() (order vm.Order, err error) {
	text, err := os.ReadFile(vm.OrderPath)
	if errors.Is(err, os.ErrNotExist) {
		return order, nil // a trial, see vm.Cache
	}
	if err == nil {
		err = json.Unmarshal(text, &order)
	}
	return order, err
}

// uptime is the time since the kernel began.
func uptime() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

// mounts are made in this order.
var mounts = []struct{ source, target, kind, data string }{
	{"dev", "/dev", "devtmpfs", ""},
	{"proc", "/proc", "proc", ""},
	{"sys", "/sys", "sysfs", ""},
	{"run", "/run", "tmpfs", "mode=755"},
	{"pts", "/dev/pts", "devpts", "ptmxmode=666"},
	{"shm", "/dev/shm", "tmpfs", "mode=1777"},
	{"cgroup", "/sys/fs/cgroup", "cgroup2", ""},
	{"bpf", "/sys/fs/bpf", "bpf", "mode=700"},
	{"trace", "/sys/kernel/tracing", "tracefs", ""},
}

func setUp() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for _, dir := range []string{"/run/lock", "/dev/net"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for target, name := range map[string]string{"/proc/self/fd": "/dev/fd", "/proc/self/fd/0": "/dev/stdin", "/proc/self/fd/1": "/dev/stdout", "/proc/self/fd/2": "/dev/stderr"} {
		if err := os.Symlink(target, name); err != nil {
			return err
		}
	}
	// Opening it loads the module.
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make /dev/net/tun: %w", err)
	}
	if err := os.Chmod("/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	unix.Umask(0o022)
	for _, module := range []string{"virtio_pci", "virtio_console"} {
		if err := modprobe([]string{module}); err != nil {
			return err
		}
	}
	return errors.Join(unix.Sethostname([]byte("vm")), loopbackUp())
}

// hide puts an empty folder over each of these.
func hide(paths []string) error {
	for _, path := range paths {
		if err := unix.Mount("empty", path, "tmpfs", unix.MS_RDONLY, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// openPort waits for the port by which the host listens; its device comes with the module.
func openPort() (io.WriteCloser, error) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err == nil && strings.TrimSpace(string(text)) == vm.Port {
				return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(name))), os.O_WRONLY, 0)
			}
		}
		if time.Now().After(deadline) {
			return nil, errors.New("the machine has none: " + strconv.Quote(vm.Port))
		}
	}
}
