package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/tor"
)

// torName is the name of one tor's folders.
func torName(instance int) string {
	if instance == 0 {
		return "tor"
	}
	return fmt.Sprintf("tor-%d", instance)
}

// torDir is where a managed tor has what is gone after a reboot.
func (r *Router) torDir(instance int) string { return filepath.Join(r.dir, torName(instance)) }

// tors is how many there are in force.
func (s *State) tors() int { return max(1, s.Instances) }

// controlAddresses are where the tors of a state take commands.
func (r *Router) controlAddresses(s *State) []string {
	if s.Config.Tor.Mode == config.TorSystem {
		return []string{s.Config.Tor.Control}
	}
	var out []string
	for i := range s.tors() {
		out = append(out, tor.SocketPath(r.torDir(i)))
	}
	return out
}

// findDaemon finds a managed tor; nil for one that does not run.
func (r *Router) findDaemon(instance int) (*tor.Daemon, error) {
	dir := r.torDir(instance)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	d, err := tor.Find(dir)
	if errors.Is(err, tor.ErrNotRunning) {
		return nil, nil
	}
	return d, err
}

// findDaemons finds all managed tors that there may be.
func (r *Router) findDaemons() ([]*tor.Daemon, error) {
	out := make([]*tor.Daemon, config.MaxInstances)
	for i := range out {
		d, err := r.findDaemon(i)
		if err != nil {
			return nil, err
		}
		out[i] = d
	}
	return out, nil
}

// stopTors ends the managed tors from one on, as far as they run.
func (r *Router) stopTors(ctx context.Context, from int) error {
	var errs []error
	for i := from; i < config.MaxInstances; i++ {
		d, err := r.findDaemon(i)
		if d != nil {
			err = d.Stop(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// endFormerTors ends those that the plan has no more, when nobody is sent to them any more.
func (j *job) endFormerTors(ctx context.Context) error {
	return j.stopTors(ctx, len(j.plan.Tors()))
}

// bounded is for what a repair waits for: a command waits as long as whoever typed it.
func (j *job) bounded(ctx context.Context, patience time.Duration) (context.Context, context.CancelFunc) {
	if !j.mends {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, patience)
}

// watchedTors are those that the sentry follows, with what is known of their circuits.
func (j *job) watchedTors(before []circuits.Memory) []sentry.TorConfig {
	var out []sentry.TorConfig
	controls := j.controlAddresses(j.state)
	for i, t := range j.plan.Tors() {
		cfg := sentry.TorConfig{Control: controls[i], DNSPort: t.DNS}
		if i < len(before) {
			cfg.Before = before[i]
		}
		out = append(out, cfg)
	}
	return out
}

// awaited are the instances of which one has to be ready for an attach to be done: this machine
// has the first alone, devices take whichever there is.
func (s *State) awaited() int {
	if s.usesClient() {
		return 1
	}
	return s.tors()
}

// waitBootstrap waits until one of several tors is bootstrapped. Of their progress that is told
// which is furthest. What fails is told of the first.
func waitBootstrap(ctx context.Context, dials []dial, report func(tor.Progress)) error {
	if len(dials) == 1 {
		return tor.WaitBootstrap(ctx, dials[0], report)
	}
	ctx, done := context.WithCancel(ctx)
	defer done()
	var mu sync.Mutex
	best := 0
	furthest := func(p tor.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Percent >= best {
			best = p.Percent
			report(p)
		}
	}
	type result struct {
		instance int
		err      error
	}
	results := make(chan result)
	for i, dial := range dials {
		go func() { results <- result{i, tor.WaitBootstrap(ctx, dial, furthest)} }()
	}
	var failed error
	ready := false
	for range dials {
		switch r := <-results; {
		case r.err == nil:
			ready = true
			done()
		case r.instance == 0:
			failed = r.err
		}
	}
	if ready {
		return nil
	}
	return failed
}

// dial opens a control connection.
type dial func(context.Context) (*tor.Control, error)
