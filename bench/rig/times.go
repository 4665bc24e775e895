package rig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// timing is a router whose torbpf comes and goes.
type timing struct {
	path    *Path
	program string
	config  string // a configuration file, whose exclusions change
	written int
}

// Times are rows of how long commands take, from their start to their end, by the time of
// day: they run on all CPUs, and wait for tor to start.
func Times(ctx context.Context, lab *testnet.Lab, program string, rounds int, progress func(string)) ([]report.Row, error) {
	p, err := NewPath(ctx, lab, Config{Name: "times", prepare: loadMasquerade})
	if err != nil {
		return nil, err
	}
	t := &timing{path: p, program: program, config: filepath.Join(lab.Dir(), "torbpf.toml")}
	steps := []struct {
		name, title string
		run         func(context.Context) (time.Duration, error)
	}{
		{"attach", "torbpf attach, tor's start included and its bootstrap not", t.attach},
		{"refresh", "torbpf attach again, with nothing changed", t.attach},
		{"apply", "torbpf apply of a file with another exclusion", t.apply},
		{"reload", "SIGHUP to torbpf run until another exclusion is in force", t.reload},
		{"detach", "torbpf detach --all", t.detach},
	}
	rows := make([]report.Row, len(steps))
	for round := range rounds {
		progress(fmt.Sprintf("attach, apply and reload: round %d of %d", round+1, rounds))
		for i, s := range steps {
			took, err := s.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("time %s: %w", s.name, err)
			}
			if round == 0 {
				rows[i] = report.Row{Name: s.name, Title: s.title, Unit: report.Milliseconds, Cells: []report.Cell{{Config: Torbpf, Title: "torbpf"}}}
			}
			cell := &rows[i].Cells[0]
			cell.Samples = append(cell.Samples, float64(took.Microseconds())/1000)
		}
	}
	return rows, nil
}

// command runs torbpf in the router, and tells how long that took.
func (t *timing) command(ctx context.Context, args ...string) (time.Duration, error) {
	begin := time.Now()
	_, err := t.path.Router.Run(ctx, t.program, args...)
	return time.Since(begin), err
}

func (t *timing) attach(ctx context.Context) (time.Duration, error) {
	torrc, err := leaktest.LoneTorrc(t.path.lab)
	if err != nil {
		return 0, err
	}
	return t.command(ctx, "attach", lan, "--exclude", Direct.String(), "--no-wait", "--torrc", torrc)
}

func (t *timing) detach(ctx context.Context) (time.Duration, error) {
	return t.command(ctx, "detach", "--all")
}

func (t *timing) apply(ctx context.Context) (time.Duration, error) {
	if err := t.write(); err != nil {
		return 0, err
	}
	return t.command(ctx, "apply", "--no-wait", "--config", t.config)
}

// write writes a configuration that differs from the last one by an exclusion.
func (t *timing) write() error {
	torrc, err := leaktest.LoneTorrc(t.path.lab)
	if err != nil {
		return err
	}
	t.written++
	text := fmt.Sprintf("interfaces = [%q]\n[tor]\ntorrc = %q\n[exclusions]\ndestinations = [%q, \"203.0.113.%d\"]\n", lan, torrc, Direct, t.written)
	return os.WriteFile(t.config, []byte(text), 0o600)
}

// reload has the daemon read another file, and waits until the pins show that its policy
// is in force.
func (t *timing) reload(ctx context.Context) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	daemon := t.path.Router.Command(ctx, t.program, "run", "--config", t.config)
	if err := daemon.Start(); err != nil {
		return 0, fmt.Errorf("start torbpf run: %w", err)
	}
	defer func() { err = errors.Join(err, stop(daemon)) }()
	if err := t.awaitDaemon(ctx); err != nil {
		return 0, err
	}
	before, err := t.policy()
	if err != nil {
		return 0, err
	}
	if err := t.write(); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
		return 0, err
	}
	err = await(ctx, time.Millisecond, "the new policy", func() (bool, error) {
		now, err := t.policy()
		return err == nil && now != before, err
	})
	return time.Since(begin), err
}

// awaitDaemon waits until a file that is changed would be read: the daemon has its socket
// for refusals once it is at work.
func (t *timing) awaitDaemon(ctx context.Context) error {
	pins, err := t.path.pins()
	if err != nil {
		return err
	}
	socket := filepath.Join("/run/torbpf", filepath.Base(pins), "refusals.sock")
	return await(ctx, 10*time.Millisecond, "torbpf run", func() (bool, error) {
		_, err := os.Stat(socket)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	})
}

// policy is the inode of the pin of a map that each policy has of its own; 0 while it is
// being replaced.
func (t *timing) policy() (uint64, error) {
	pin, err := t.path.pins("maps", "dst4_prefixes")
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(pin)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// stop ends the daemon as a service manager does.
func stop(daemon *exec.Cmd) error {
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := daemon.Wait(); err != nil {
		return fmt.Errorf("torbpf run: %w", err)
	}
	return nil
}

// await polls until done says so.
func await(ctx context.Context, every time.Duration, what string, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
