package sockets

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/plan"
)

// Process is who has a socket.
type Process struct {
	PID     int
	Name    string      // as the kernel has it: its file's, unless it has chosen another
	User    uint32      // as which it acts
	Program plan.FileID // zero where it has none, as kernel threads
	Cgroups []uint64    // ids, its own first, then those above
	pidfd   int
}

// effectiveUser is the second number (proc(5) status). The owner of /proc/PID does not tell,
// since tor forbids debuggers.
var effectiveUser = regexp.MustCompile(`(?m)^Uid:\t[0-9]+\t([0-9]+)\t`)

// UserOf returns the account that a process acts as.
func UserOf(pid int) (uint32, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	found := effectiveUser.FindSubmatch(status)
	if found == nil {
		return 0, fmt.Errorf("read the user of process %d: %w", pid, fs.ErrNotExist)
	}
	user, err := strconv.ParseUint(string(found[1]), 10, 32)
	return uint32(user), err
}

// EachProcess hands every process in the calling thread's network namespace to visit, those
// left out that end meanwhile.
func EachProcess(visit func(*Process)) error {
	return eachPID(func(pid int) error {
		p := &Process{PID: pid}
		switch err := p.read(); {
		case err == nil:
			visit(p)
		case !ended(err):
			return fmt.Errorf("read process %d: %w", pid, err)
		}
		return nil
	})
}

// Find reads one process. It must be in the calling thread's network namespace.
func Find(pid int) (*Process, error) {
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("find the network namespace: %w", err)
	}
	there, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("find the network namespace of process %d: %w", pid, err)
	}
	if there != here {
		return nil, fmt.Errorf("process %d is in another network namespace", pid)
	}
	p := &Process{PID: pid}
	if err := p.read(); err != nil {
		return nil, fmt.Errorf("read process %d: %w", pid, err)
	}
	return p, nil
}

func openProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process: %w", err)
	}
	p := &Process{PID: pid, pidfd: fd}
	if err := p.read(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *Process) close() { _ = unix.Close(p.pidfd) }

func (p *Process) read() error {
	var err error
	if p.User, err = UserOf(p.PID); err != nil {
		return err
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
	if err != nil {
		return err
	}
	p.Name = strings.TrimSuffix(string(name), "\n")
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", p.PID), &stat); err == nil {
		p.Program = plan.FileID{Major: unix.Major(stat.Dev), Minor: unix.Minor(stat.Dev), Inode: stat.Ino}
	}
	p.Cgroups, err = cgroupsOf(p.PID)
	return err
}

// cgroupsOf returns the groups that a process is in; of one outside of this process's control
// group namespace none, since those have no names here, and no rule can be about them.
func cgroupsOf(pid int) ([]uint64, error) {
	root, err := cgroup.Tree()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	var out []uint64
	for line := range bytes.Lines(text) {
		// cgroups(7): of version 2 the line begins with 0 and no controller
		group, v2 := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "0::")
		if group == "/.." || strings.HasPrefix(group, "/../") {
			continue
		}
		for ; v2; group = path.Dir(group) {
			id, err := cgroup.ID(root, group)
			if err != nil {
				return nil, err
			}
			out = append(out, id)
			if group == "/" {
				break
			}
		}
	}
	return out, nil
}
