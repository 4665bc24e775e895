package cell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
)

// Folders with the sockets of services that the C library asks for names before it asks a
// name server itself. They would ask on the program's behalf, from outside of its group:
// nscd any server, Avahi whoever is on the link, which is as well with policy direct.
var (
	answerers = []string{"/run/nscd", "/var/run/nscd"}
	callers   = []string{"/run/avahi-daemon", "/var/run/avahi-daemon"}
)

// own has torbpf's state, and its programs' pins: whoever removes them opens the cell.
const own = "/run/torbpf"

// controls are where root's programs could have the kernel, or others, act for them.
var controls = []string{"/sys", "/proc/sys"}

// protect makes all that is mounted below a folder read-only (Linux 5.12).
func protect(at string) error {
	if err := unix.Mount(at, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.MountSetattr(-1, at, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// arrangeMounts makes the program's view of the file system, in the mount namespace of this
// process.
func (o order) arrangeMounts() error {
	// What is mounted and unmounted outside happens here as well, but not the reverse.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts to the program: %w", err)
	}
	if o.Policy == config.PolicyTor {
		if err := protectGroups(); err != nil {
			return err
		}
		if err := hide(append(callers, own)); err != nil {
			return err
		}
		for _, at := range controls {
			if err := protect(at); err != nil {
				return fmt.Errorf("protect %s: %w", at, err)
			}
		}
	}
	if err := hide(answerers); err != nil {
		return err
	}
	return hideResolved(o.Policy)
}

// protectGroups makes every tree of control groups read-only, so that root's programs do
// not leave theirs.
func protectGroups() error {
	mounts, err := cgroup.Mounts()
	if err != nil {
		return err
	}
	for _, at := range mounts {
		if err := protectGroup(at); err != nil {
			return fmt.Errorf("protect the control groups at %s: %w", at, err)
		}
	}
	return nil
}

func protectGroup(at string) error {
	fd, err := unix.Open(at, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // below something that is mounted over it
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var stat unix.Statfs_t
	if err := unix.Fstatfs(fd, &stat); err != nil {
		return err
	}
	if stat.Type != unix.CGROUP2_SUPER_MAGIC && stat.Type != unix.CGROUP_SUPER_MAGIC {
		return nil // itself under another mount
	}
	// A remount states all flags, and in a container some must stay.
	const stay = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(stat.Flags)&stay | unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY
	return unix.Mount("", descriptorPath(fd), "", flags, "")
}

func descriptorPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// hide puts an empty folder over each that exists.
func hide(folders []string) error {
	var hidden []string
	for _, folder := range folders {
		path, err := filepath.EvalSymlinks(folder)
		if errors.Is(err, fs.ErrNotExist) || slices.Contains(hidden, path) {
			continue
		}
		if err != nil {
			return fmt.Errorf("hide %s: %w", folder, err)
		}
		if err := cover(path, func() error { return nil }); err != nil {
			return err
		}
		hidden = append(hidden, path)
	}
	return nil
}

// cover puts a folder in memory over another; fill puts into it what the program may see.
func cover(path string, fill func() error) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("torbpf", path, "tmpfs", flags, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	if err := fill(); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	if err := unix.Mount("", path, "", flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

// exists follows links.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
