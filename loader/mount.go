package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// initRoot leads into the mount namespace of the first process from any other.
const initRoot = "/proc/1/root"

// Mount sees to a bpffs at path in the mount namespace of the first process
// and returns a path that leads to it from ours, as long as we run. `ip netns
// exec` gives each command a mount namespace of its own: a bpffs mounted there
// would vanish with the command, and the pins with it.
func Mount(path string) (string, error) {
	way := path
	err := inFirstNamespace(func(foreign bool) error {
		err := mountBPF(path)
		if err == nil && foreign {
			way, err = wayTo(path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return way, nil
}

// Find is Mount that mounts nothing: without a bpffs at path it gives os.ErrNotExist.
func Find(path string) (string, error) {
	way := path
	err := inFirstNamespace(func(foreign bool) error {
		mounted, err := isBPF(path)
		if err == nil && !mounted {
			err = fmt.Errorf("find bpffs at %s: %w", path, fs.ErrNotExist)
		}
		if err == nil && foreign {
			way, err = wayTo(path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return way, nil
}

// Unmount removes the bpffs at path if nothing is pinned in it any more.
func Unmount(path string) error {
	return inFirstNamespace(func(bool) error { return unmountEmpty(path) })
}

// wayTo is asked inside the first process's namespace for a path that leads
// there from outside: by the first process, whose root we may not see unless
// we may trace it, or else by a file that stays open until we end.
func wayTo(path string) (string, error) {
	if seen, err := isBPF(filepath.Join(initRoot, path)); err == nil && seen {
		return filepath.Join(initRoot, path), nil
	}
	ways.Lock()
	defer ways.Unlock()
	file, open := ways.open[path]
	if !open {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("open bpffs at %s: %w", path, err)
		}
		file = os.NewFile(uintptr(fd), path)
		ways.open[path] = file
	}
	return fmt.Sprintf("/proc/self/fd/%d", file.Fd()), nil
}

// ways are the files that lead to a bpffs, by its path. One that is open keeps
// its bpffs from being unmounted.
var ways = struct {
	sync.Mutex
	open map[string]*os.File
}{open: make(map[string]*os.File)}

// closeWay closes the way to a bpffs that nobody needs any more.
func closeWay(path string) error {
	ways.Lock()
	defer ways.Unlock()
	file, open := ways.open[path]
	if !open {
		return nil
	}
	delete(ways.open, path)
	return file.Close()
}

func mountBPF(path string) error {
	mounted, err := isBPF(path)
	if err != nil || mounted {
		return err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make mount point for bpffs: %w", err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("bpf", path, "bpf", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", path, kernel.Explain(err, "a kernel with CONFIG_BPF_SYSCALL", unix.ENODEV))
	}
	return nil
}

func unmountEmpty(path string) error {
	mounted, err := isBPF(path)
	if err != nil || !mounted {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("list bpffs: %w", err)
	}
	for _, entry := range entries {
		empty, err := holdsNothing(filepath.Join(path, entry.Name()))
		if err != nil || !empty {
			return err
		}
	}
	if err := closeWay(path); err != nil {
		return fmt.Errorf("let go of bpffs at %s: %w", path, err)
	}
	err = unix.Unmount(path, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil // for another namespace's torbpf, which will do it in its turn
	}
	if err != nil {
		return fmt.Errorf("unmount bpffs at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove mount point of bpffs: %w", err)
	}
	return nil
}

// holdsNothing tells of an entry of a bpffs whether it can go unmounted. A pin's
// name has no dot; the kernel's own maps.debug and progs.debug are in every bpffs
// where it can preload its iterators. And where there is no other bpffs, tc makes
// folders and links for itself in ours, be it only asked to list its filters.
func holdsNothing(path string) (bool, error) {
	switch name := filepath.Base(path); name {
	case "tc", "ip", "xdp":
	default:
		return strings.Contains(name, "."), nil
	}
	empty := true
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			empty = false
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("list bpffs: %w", err)
	}
	return empty, nil
}

func isBPF(path string) (bool, error) {
	var fs unix.Statfs_t
	err := unix.Statfs(path, &fs)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("inspect %s: %w", path, err)
	}
	return fs.Type == unix.BPF_FS_MAGIC, nil
}
