package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// inFirstNamespace runs f in the mount namespace of the first process; foreign
// says that it is not our own.
func inFirstNamespace(f func(foreign bool) error) error {
	first, err := mountIDs("1")
	if err != nil {
		return err
	}
	own, err := mountIDs("thread-self")
	if err != nil {
		return err
	}
	if meet(first, own) {
		return f(false)
	}
	fd, err := openMountNamespace(first)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return onThreadIn(fd, func() error { return f(true) })
}

// mountIDs returns the ids of the mounts that a process sees. An id belongs to
// one mount, and a mount to one namespace: processes with an id in common
// share their namespace. /proc/PID/ns/mnt would say so directly, but only to
// who may trace the process, and root in a container may not.
func mountIDs(process string) (map[string]bool, error) {
	table, err := os.ReadFile(filepath.Join("/proc", process, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read mounts of process %s: %w", process, err)
	}
	ids := make(map[string]bool)
	for line := range strings.Lines(string(table)) {
		id, _, _ := strings.Cut(line, " ")
		ids[id] = true
	}
	return ids, nil
}

func meet(a, b map[string]bool) bool {
	for id := range a {
		if b[id] {
			return true
		}
	}
	return false
}

// openMountNamespace opens the namespace in which the mounts of the first
// process are: by that process, or by any other in there that we may trace.
func openMountNamespace(first map[string]bool) (int, error) {
	open := func(process string) (int, error) {
		return unix.Open(filepath.Join("/proc", process, "ns/mnt"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	fd, refused := open("1")
	if refused == nil {
		return fd, nil
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return -1, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		ids, err := mountIDs(p.Name())
		if err != nil || !meet(ids, first) { // an error: it has ended
			continue
		}
		if fd, err := open(p.Name()); err == nil {
			return fd, nil
		}
	}
	return -1, fmt.Errorf("open mount namespace of process 1: %w; "+
		"to enter a network namespace only, use nsenter --net=/run/netns/NAME", refused)
}

// onThreadIn runs f inside a mount namespace on a thread of its own, which is
// never unlocked and so ends with the goroutine.
func onThreadIn(namespace int, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		// A thread that shares its root and cwd may not change namespaces.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			result <- fmt.Errorf("unshare filesystem attributes: %w", err)
			return
		}
		if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
			result <- fmt.Errorf("enter mount namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}
