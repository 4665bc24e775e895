package leaktest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of processes as the kernel keeps them.
const (
	commTor    = "tor"
	commSentry = "torbpf-sentry"
	commOurs   = "torbpf"
)

var allKilled = Fault{Name: "kill -9 of tor and all of torbpf", part: "processes", Inflict: func(b *Bench) error {
	return b.signal(unix.SIGKILL, commOurs, commTor) // or a daemon would start tor anew
}}

func killFaults() []Fault {
	return []Fault{
		{Name: "no fault", Inflict: func(*Bench) error { return nil }},
		allKilled,
		{Name: "kill -9 of the sentry", Inflict: func(b *Bench) error { return b.signal(unix.SIGKILL, commSentry) }},
		{Name: "kill -9 of tor", Inflict: func(b *Bench) error { return b.signal(unix.SIGKILL, commTor) }},
		{Name: "tor hung (SIGSTOP)", Inflict: func(b *Bench) error { return b.hang(commTor) }},
		{Name: "sentry hung (SIGSTOP)", Inflict: func(b *Bench) error { return b.hang(commSentry) }},
		{Name: "attach killed at many instants", Inflict: attachKilled},
	}
}

// attachKilled ends attach at one instant after the other, from its first to its
// last; what it was at stays half done.
func attachKilled(b *Bench) error {
	begin := time.Now()
	if err := b.torbpf("attach", "--no-wait"); err != nil {
		return err
	}
	whole := time.Since(begin)
	const instants = 12
	for i := range instants {
		cmd := b.Lab.Router.Command(b.ctx, b.Program, "attach", "--no-wait", "--exclude", fmt.Sprintf("198.51.100.%d", i))
		if err := cmd.Start(); err != nil {
			return err
		}
		timer := time.AfterFunc(whole*time.Duration(i)/instants, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed, or done before
		timer.Stop()
	}
	return nil
}

// processes are those in the router's namespace whose name begins with one of
// these, by number.
func (b *Bench) processes(names ...string) (map[int]string, error) {
	out, err := b.Lab.Router.Run(b.ctx, "ip", "netns", "pids", b.Lab.Router.NetNS)
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for _, field := range strings.Fields(out) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		comm, err := os.ReadFile(filepath.Join("/proc", field, "comm"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			have := strings.TrimSpace(string(comm))
			if have == name || name == commOurs && strings.HasPrefix(have, name) {
				found[pid] = have
			}
		}
	}
	return found, nil
}

// signal sends a signal to all processes of these names, of which there must be
// some of each, and waits for the end of those killed.
func (b *Bench) signal(s unix.Signal, names ...string) error {
	signalled := map[int]bool{}
	for _, name := range names {
		found, err := b.processes(name)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no process %s: the fault would be none", name)
		}
		for pid := range found {
			if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("signal %s: %w", name, err)
			}
			signalled[pid] = true
		}
	}
	if s != unix.SIGKILL {
		return nil
	}
	return await(b.ctx, "the end of all killed", func() error {
		left, err := b.processes(names...)
		for pid := range left {
			if signalled[pid] {
				err = fmt.Errorf("%v are left", left)
			}
		}
		return err
	})
}

// hang stops a process until the repair.
func (b *Bench) hang(name string) error {
	b.undo(func() error { return b.signal(unix.SIGCONT, name) })
	return b.signal(unix.SIGSTOP, name)
}
