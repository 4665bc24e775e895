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
	User    uint32      // as which it acts
	Program plan.FileID // zero where it has none, as kernel threads
	Cgroups []uint64    // ids, its own first, then those above
	pidfd   int
}

// effectiveUser is the second number (proc(5) status).
var effectiveUser = regexp.MustCompile(`(?m)^Uid:\t[0-9]+\t([0-9]+)\t`)

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
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return err
	}
	found := effectiveUser.FindSubmatch(status)
	if found == nil {
		return fmt.Errorf("read the user of process %d: %w", p.PID, fs.ErrNotExist)
	}
	user, err := strconv.ParseUint(string(found[1]), 10, 32)
	if err != nil {
		return err
	}
	p.User = uint32(user)
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", p.PID), &stat); err == nil {
		p.Program = plan.FileID{Major: unix.Major(stat.Dev), Minor: unix.Minor(stat.Dev), Inode: stat.Ino}
	}
	p.Cgroups, err = cgroupsOf(p.PID)
	return err
}

// cgroupsOf returns the groups that a process is in.
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
