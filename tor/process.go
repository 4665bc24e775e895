package tor

import (
	"context"
	"encoding/json"
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

// record says which process is our tor and how it was started. A pid alone is
// soon another process's; with its start time it names one process per boot.
type record struct {
	PID     int    `json:"pid"`
	Start   uint64 `json:"start_ticks"` // clock ticks after boot, proc(5) stat field 22
	Binary  string `json:"binary"`
	User    string `json:"user"`
	DataDir string `json:"data_dir"`
	Cgroup  uint64 `json:"cgroup,omitempty"` // see Daemon.Cgroup
}

func recordPath(dir string) string { return filepath.Join(dir, "process.json") }

func (r record) write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(recordPath(dir), append(data, '\n'), 0o644, 0)
}

// readRecord returns the record of dir. If there is none, because the command
// that started tor was killed before it could write one, a process that was
// started with our torrc is looked for.
func readRecord(dir string) (record, error) {
	data, err := os.ReadFile(recordPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return searchRecord(dir)
	}
	if err != nil {
		return record{}, fmt.Errorf("read which process tor is: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("read which process tor is from %s: %w; remove the file", recordPath(dir), err)
	}
	return r, nil
}

func searchRecord(dir string) (record, error) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return record{}, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil || !isOurs(pid, dir) || !ownsRunDir(pid, dir) {
			continue
		}
		if start, err := startTicks(pid); err == nil {
			return record{PID: pid, Start: start}, nil
		}
	}
	return record{}, ErrNotRunning
}

// pidfd holds a running tor. It makes sure that no signal ever reaches
// another process that has been given the same pid since.
type pidfd int

// open returns the recorded process, or ErrNotRunning. The caller closes it.
func (r record) open(dir string) (pidfd, error) {
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, ErrNotRunning
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", r.PID, err)
	}
	p := pidfd(fd)
	start, err := startTicks(r.PID)
	// Asked last, exited tells that /proc spoke of the process we hold.
	if err != nil || start != r.Start || !isOurs(r.PID, dir) || p.exited(0) {
		p.close()
		return -1, ErrNotRunning
	}
	return p, nil
}

func (p pidfd) close() { _ = unix.Close(int(p)) }

func (p pidfd) signal(s unix.Signal) error {
	err := unix.PidfdSendSignal(int(p), s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// exited waits for the process to end; a zombie has ended.
func (p pidfd) exited(wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}
	for end := time.Now().Add(wait); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end)).Milliseconds()))
		if n > 0 {
			return true
		}
		if !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// waitExit waits until the process ends, the time is up or ctx ends.
func (p pidfd) waitExit(ctx context.Context, wait time.Duration) bool {
	for end := time.Now().Add(wait); ; {
		if p.exited(min(20*time.Millisecond, time.Until(end))) {
			return true
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return false
		}
	}
}

// Bounds of a stop. A client tor leaves at once unless it hangs.
const (
	termGrace = 5 * time.Second
	killGrace = 5 * time.Second
)

// end makes the process leave: asked first, killed when it does not obey in
// time or ctx ends. A stopped process takes no SIGTERM, but dies of SIGKILL.
func (p pidfd) end(ctx context.Context, pid int) error {
	if err := p.signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop tor (process %d): %w", pid, err)
	}
	if p.waitExit(ctx, termGrace) {
		return nil
	}
	return p.kill(pid)
}

func (p pidfd) kill(pid int) error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill tor (process %d): %w", pid, err)
	}
	if !p.exited(killGrace) {
		return fmt.Errorf("kill tor: process %d outlives SIGKILL; its disk or network file system hangs", pid)
	}
	return nil
}

// isOurs says whether a process was started with the torrc of dir.
func isOurs(pid int, dir string) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	argv := strings.Split(string(args), "\x00")
	at := slices.Index(argv, "-f")
	return at >= 0 && at+1 < len(argv) && argv[at+1] == Options{Dir: dir}.torrcPath()
}

// ownsRunDir says whether a process runs under the account of dir's tor; any
// user could start one with arguments like ours. The owner of /proc/PID does
// not tell: tor forbids debuggers, which makes that root.
func ownsRunDir(pid int, dir string) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	run, err := os.Lstat(Options{Dir: dir}.runDir())
	return err == nil && strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", owner(run)))
}

// startTicks reads when a process was started: proc(5) stat, field 22. The
// second field is a name in parentheses that may hold anything.
func startTicks(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const start = 22 - 3 // the first field here is the third
	if len(fields) <= start {
		return 0, fmt.Errorf("read the start time of process %d: %q", pid, data)
	}
	return strconv.ParseUint(fields[start], 10, 64)
}
