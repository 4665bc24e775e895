package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// Tree returns a path to the root of the whole tree that groups can be made in, good for as
// long as this process runs. Of the places where it may be mounted it takes the first:
//
//   - the caller's mount namespace, unless it is read-only there, as it is in containers
//     and below systemd's ProtectControlGroups
//   - the first process's: `ip netns exec` hides /sys/fs/cgroup with a /sys of its own
//   - none of its own: one for this process alone, at no path, so that nothing is left to
//     unmount; the groups in it stay. That is for systems that use version 1 only.
func Tree() (string, error) {
	var options []string
	for _, from := range []struct{ table, way string }{
		{"/proc/self/mountinfo", "/"},
		{"/proc/1/mountinfo", "/proc/1/root"},
	} {
		mounts, err := trees(from.table)
		if err != nil && !errors.Is(err, ErrNoTree) && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
		for _, m := range mounts {
			if path := filepath.Join(from.way, m.at); usable(path) {
				return path, nil
			}
			options = m.options
		}
	}
	return ownTree(options)
}

// usable tells whether a tree is at a path, nothing mounted over it, and can be changed.
func usable(path string) bool {
	var stat unix.Statfs_t
	err := unix.Statfs(path, &stat)
	return err == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC && stat.Flags&unix.ST_RDONLY == 0
}

// own is this process's mount of the tree, once it was needed.
var own struct {
	sync.Mutex
	tree *os.File
}

func ownTree(options []string) (string, error) {
	own.Lock()
	defer own.Unlock()
	if own.tree == nil {
		fd, err := mountTree(options)
		if err != nil {
			return "", fmt.Errorf("mount the tree of control groups: %w", kernel.Explain(err, "control groups (CONFIG_CGROUPS) and Linux 5.7", unix.ENODEV, unix.ENOSYS))
		}
		own.tree = os.NewFile(uintptr(fd), "cgroup2")
	}
	return fmt.Sprintf("/proc/self/fd/%d", own.tree.Fd()), nil
}

// ofMount are options that are not about the tree.
var ofMount = []string{"rw", "ro", "seclabel"}

// mountTree mounts it without attaching it anywhere; the mount ends with its descriptor.
// The options (nsdelegate, memory_recursiveprot) are those it has: a mount without them
// would reset them for everybody.
func mountTree(options []string) (int, error) {
	kind, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(kind)
	for _, option := range options {
		if slices.Contains(ofMount, option) {
			continue
		}
		if err := unix.FsconfigSetFlag(kind, option); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(kind); err != nil {
		return -1, err
	}
	return unix.Fsmount(kind, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}
