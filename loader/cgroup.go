package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// CgroupRoot returns a path to the root of the control groups (version 2), as the first
// process sees it; it leads there from our mount namespace as long as we run. Where they
// are mounted nowhere, as on hosts that use version 1 only, they are mounted beside the
// bpffs until Unmount.
//
// In a container that has control groups of its own the root is the container's: what
// runs outside of it is not below.
func (d *Datapath) CgroupRoot() (string, error) {
	var way string
	err := inFirstNamespace(func(foreign bool) error {
		path, err := mountedCgroups(filepath.Join("/proc", "thread-self", "mountinfo"))
		if err == nil && path == "" {
			path = besideBPF(d.mount)
			err = mountCgroups(path)
		}
		way = path
		if err == nil && foreign {
			way, err = wayTo(path, unix.CGROUP2_SUPER_MAGIC)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return way, nil
}

// besideBPF is where control groups are mounted where nobody has done so.
func besideBPF(bpf string) string { return filepath.Join(filepath.Dir(bpf), "cgroup") }

// mountedCgroups finds the root of the control groups in a table of mounts; "" if it is
// not there, or if something else is mounted over it.
func mountedCgroups(table string) (string, error) {
	content, err := os.ReadFile(table)
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		path, ok := cgroupMount(line)
		if !ok {
			continue
		}
		if there, err := isMounted(path, unix.CGROUP2_SUPER_MAGIC); err == nil && there {
			return path, nil
		}
	}
	return "", nil
}

// cgroupMount reads a line of mountinfo (proc_pid_mountinfo(5)): where it mounts the
// whole tree of control groups.
func cgroupMount(line string) (string, bool) {
	mount, kind, found := strings.Cut(line, " - ")
	fields := strings.Fields(mount)
	if !found || len(fields) < 5 || !strings.HasPrefix(kind, "cgroup2 ") || fields[3] != "/" {
		return "", false
	}
	return unescapeMount.Replace(fields[4]), true
}

// unescapeMount undoes what the kernel does to paths in a table of mounts.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func mountCgroups(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make mount point for control groups: %w", err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("cgroup2", path, "cgroup2", flags, ""); err != nil {
		return fmt.Errorf("mount control groups at %s: %w", path, kernel.Explain(err, "a kernel with CONFIG_CGROUPS and CONFIG_CGROUP_BPF", unix.ENODEV))
	}
	return nil
}

// unmountCgroups undoes mountCgroups.
func unmountCgroups(path string) error {
	mounted, err := isMounted(path, unix.CGROUP2_SUPER_MAGIC)
	if err != nil || !mounted {
		return err
	}
	if err := closeWay(path); err != nil {
		return fmt.Errorf("let go of control groups at %s: %w", path, err)
	}
	if err := unix.Unmount(path, 0); err != nil {
		return fmt.Errorf("unmount control groups at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove mount point of control groups: %w", err)
	}
	return nil
}

// cgroupID returns the number by which the kernel knows a control group.
func cgroupID(path string) (uint64, error) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return 0, fmt.Errorf("identify control group %s: %w", path, err)
	}
	id := handle.Bytes()
	if len(id) != 8 {
		return 0, fmt.Errorf("identify control group %s: its handle has %d bytes", path, len(id))
	}
	return binary.NativeEndian.Uint64(id), nil
}

// rootOfAll tells whether a root of control groups is the machine's, and not that of a
// namespace: that one is, to the kernel, a group like any other.
func rootOfAll(path string) (bool, error) {
	_, err := os.Stat(filepath.Join(path, "cgroup.type"))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("inspect control group: %w", err)
	}
	return false, nil
}
