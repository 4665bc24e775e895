package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killPatience is how long processes may take to be gone once they are killed.
const killPatience = 10 * time.Second

// End ends every process in the group and below it: it asks them to (SIGTERM), and after
// the grace kills what is left. When it returns without an error the group is empty.
func (g Group) End(grace time.Duration) error {
	if empty, err := g.Wait(0); err != nil || empty {
		return err
	}
	if err := g.Signal(unix.SIGTERM); err != nil {
		return err
	}
	if empty, err := g.Wait(grace); err != nil || empty {
		return err
	}
	return g.Kill()
}

// Kill kills every process in the group and below it, and waits until they are gone.
func (g Group) Kill() error {
	kill := g.killOneByOne // before Linux 5.14
	if _, err := os.Stat(g.file("cgroup.kill")); err == nil {
		kill = g.killAtOnce
	}
	if err := kill(); err != nil {
		return fmt.Errorf("kill what is in control group %s: %w", g.Path, err)
	}
	return nil
}

func (g Group) killAtOnce() error {
	err := os.WriteFile(g.file("cgroup.kill"), []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	empty, err := g.Wait(killPatience)
	if err == nil && !empty {
		err = errors.New("it outlives SIGKILL; look for a hung device or file system")
	}
	return err
}

// killOneByOne repeats itself, since what it kills may be making children meanwhile.
func (g Group) killOneByOne() error {
	for deadline := time.Now().Add(killPatience); time.Now().Before(deadline); {
		if err := g.Signal(unix.SIGKILL); err != nil {
			return err
		}
		if empty, err := g.Wait(time.Second / attempts); err != nil || empty {
			return err
		}
	}
	return errors.New("it outlives SIGKILL; look for a hung device or file system")
}

// Signal sends a signal to each process in the group and below it, and to no other: a pidfd
// names one process for good, and only then it is asked whether that is in the group.
func (g Group) Signal(signal unix.Signal) error {
	dirs, err := g.withDescendants()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := signalAll(dir, signal); err != nil {
			return fmt.Errorf("send %s to control group %s: %w", unix.SignalName(signal), g.Path, err)
		}
	}
	return nil
}

func signalAll(dir string, signal unix.Signal) error {
	listed, err := processes(dir)
	if err != nil {
		return err
	}
	pidfds := make(map[int]int)
	defer func() {
		for _, pidfd := range pidfds {
			unix.Close(pidfd)
		}
	}()
	for _, pid := range listed {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			pidfds[pid] = pidfd
		} else if !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	still, err := processes(dir)
	if err != nil {
		return err
	}
	for pid, pidfd := range pidfds {
		if !slices.Contains(still, pid) {
			continue
		}
		if err := unix.PidfdSendSignal(pidfd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// Processes lists those in the group itself; see processes.
func (g Group) Processes() ([]int, error) { return processes(g.file("")) }

// processes lists those in one group, but for those of other pid namespaces, which it
// cannot name.
func processes(dir string) ([]int, error) {
	list, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(list)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// gone tells of the error of reading a group's file whether the group is no more.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// Wait waits until no process is in the group nor below it; one that is gone is empty.
func (g Group) Wait(patience time.Duration) (empty bool, err error) {
	events, err := os.Open(g.file("cgroup.events"))
	if gone(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("watch control group: %w", err)
	}
	defer events.Close()
	for deadline := time.Now().Add(patience); ; {
		var text [256]byte
		n, err := events.ReadAt(text[:], 0)
		if gone(err) || bytes.Contains(text[:n], []byte("populated 0\n")) {
			return true, nil
		}
		if n == 0 {
			return false, fmt.Errorf("watch control group %s: %w", g.Path, err)
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		// Changed since it was last read: the kernel tells by POLLPRI.
		changed := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(changed, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("watch control group %s: %w", g.Path, err)
		}
	}
}
