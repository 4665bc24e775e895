package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// initRoot leads into the mount namespace of the first process from any other.
const initRoot = "/proc/1/root"

// Mount sees to a bpffs at path in the mount namespace of the first process
// and returns a path that leads to it from ours. `ip netns exec` gives each
// command a mount namespace of its own: a bpffs mounted there would vanish
// with the command, and the pins with it.
func Mount(path string) (string, error) {
	same, err := sameNamespace("/proc/1/ns/mnt", "/proc/thread-self/ns/mnt")
	if err != nil {
		return "", err
	}
	if same {
		return path, mountBPF(path)
	}
	if err := inMountNamespace("/proc/1/ns/mnt", func() error { return mountBPF(path) }); err != nil {
		return "", err
	}
	return filepath.Join(initRoot, path), nil
}

// Unmount removes the bpffs at path if nothing is pinned in it any more.
func Unmount(path string) error {
	same, err := sameNamespace("/proc/1/ns/mnt", "/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	if same {
		return unmountEmpty(path)
	}
	return inMountNamespace("/proc/1/ns/mnt", func() error { return unmountEmpty(path) })
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
		return fmt.Errorf("mount bpffs at %s: %w", path, err)
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
	if len(entries) > 0 {
		return nil
	}
	if err := unix.Unmount(path, 0); err != nil {
		return fmt.Errorf("unmount bpffs at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove mount point of bpffs: %w", err)
	}
	return nil
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

func sameNamespace(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	if err := unix.Stat(a, &sa); err != nil {
		return false, fmt.Errorf("inspect namespace %s: %w", a, err)
	}
	if err := unix.Stat(b, &sb); err != nil {
		return false, fmt.Errorf("inspect namespace %s: %w", b, err)
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino, nil
}

// inMountNamespace runs f on a thread of its own inside that mount namespace.
// The thread is never unlocked, so it ends with the goroutine.
func inMountNamespace(namespace string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open mount namespace: %w", err)
			return
		}
		defer unix.Close(fd)
		// A thread that shares its root and cwd may not change namespaces.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			result <- fmt.Errorf("unshare filesystem attributes: %w", err)
			return
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
			result <- fmt.Errorf("enter mount namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}
