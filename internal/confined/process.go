package confined

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopPatience is how long a process told to stop may take before it is killed.
const stopPatience = 5 * time.Second

// Running reports whether the process that Spawn started is still there. The
// start time (in clock ticks since boot) tells it from another one that got the
// same pid later.
func Running(pid int, starttime uint64) bool {
	same, err := isAlive(pid, starttime)
	return err == nil && same
}

func isAlive(pid int, starttime uint64) (bool, error) {
	stat, err := readStat(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	return err == nil && stat.alive() && stat.starttime == starttime, err
}

// Stop ends the process that Spawn started and waits until it is gone; one that
// is gone already is no error. No other process is ever signalled: the pidfd is
// taken first and names one process for good, and only then is the start time
// compared.
func (r Role) Stop(pid int, starttime uint64) error {
	return r.stop(pid, starttime, stopPatience)
}

func (r Role) stop(pid int, starttime uint64, patience time.Duration) error {
	if pid <= 0 {
		return fmt.Errorf("stop %s: %d is no process id", r, pid)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop %s %d: %w", r, pid, err)
	}
	defer unix.Close(pidfd)
	alive, err := isAlive(pid, starttime)
	if err != nil {
		return fmt.Errorf("stop %s: %w", r, err)
	}
	if !alive {
		return nil
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(pidfd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("send %s to %s %d: %w", unix.SignalName(signal), r, pid, err)
		}
		gone, err := waitGone(pidfd, patience)
		if err != nil {
			return fmt.Errorf("wait for %s %d to end: %w", r, pid, err)
		}
		if gone {
			return nil
		}
	}
	return fmt.Errorf("stop %s %d: it outlives SIGKILL; look for a hung device or file system", r, pid)
}

// waitGone waits for the process of a pidfd to end.
func waitGone(pidfd int, patience time.Duration) (bool, error) {
	deadline := time.Now().Add(patience)
	for {
		left := max(time.Until(deadline), 0)
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, err
	}
}

// procStat is the part of /proc/PID/stat (proc_pid_stat(5)) that tells processes apart.
type procStat struct {
	state     string
	starttime uint64 // clock ticks since boot
}

// alive is false for a process that has ended and whose parent has not noticed.
func (s procStat) alive() bool { return s.state != "Z" && s.state != "X" }

func readStat(pid int) (procStat, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	return parseStat(string(raw))
}

// parseStat begins behind the name of the program, which may hold blanks and
// parentheses of its own: the third field of the line is the first here.
func parseStat(line string) (procStat, error) {
	const state, starttime = 0, 19 // fields 3 and 22 of proc_pid_stat(5)
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) <= starttime {
		return procStat{}, fmt.Errorf("parse process state %q: too few fields", line)
	}
	ticks, err := strconv.ParseUint(fields[starttime], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("parse process state: %w", err)
	}
	return procStat{state: fields[state], starttime: ticks}, nil
}
