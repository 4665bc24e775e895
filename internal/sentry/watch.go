package sentry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Tor is the control connection as far as the sentry needs it. Its errors, and
// those of a Dialer, are logged as they are: they name what was tried.
type Tor interface {
	// Bootstrap returns how far tor is (0 to 100) and what it is doing.
	Bootstrap(ctx context.Context) (percent int, summary string, err error)
}

// Dialer opens an authenticated control connection. The Closer ends it and
// unblocks a Bootstrap under way.
type Dialer func(ctx context.Context) (Tor, io.Closer, error)

// WatchOptions are the paces of Watch; a zero field means its default.
type WatchOptions struct {
	Starting   time.Duration // between polls until tor is bootstrapped (250 ms)
	Steady     time.Duration // between polls afterwards (1 s)
	Deadline   time.Duration // within which tor must answer (5 s)
	Backoff    time.Duration // before connecting again (250 ms), doubled on each failure
	MaxBackoff time.Duration // where the doubling ends (2 s)
}

func (o WatchOptions) withDefaults() WatchOptions {
	for _, field := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&o.Starting, 250 * time.Millisecond},
		{&o.Steady, time.Second},
		{&o.Deadline, 5 * time.Second},
		{&o.Backoff, 250 * time.Millisecond},
		{&o.MaxBackoff, 2 * time.Second},
	} {
		if *field.value <= 0 {
			*field.value = field.fallback
		}
	}
	return o
}

// bootstrapped is the percentage at which tor takes connections.
const bootstrapped = 100

// errHung is why the gate is shut when tor accepts connections, or holds one, and
// says nothing: a stopped process does that, and so does one that swaps.
var errHung = errors.New("tor does not answer its control connection")

// Watch keeps the gate open exactly while the last poll said that tor is
// bootstrapped. It returns when ctx ends and leaves the gate as it is: see the
// package's description.
func Watch(ctx context.Context, dial Dialer, gate *Gate, opts WatchOptions, log *slog.Logger) {
	w := watcher{dial: dial, gate: gate, opts: opts.withDefaults(), log: log}
	backoff := w.opts.Backoff
	for ctx.Err() == nil {
		if w.session(ctx) {
			backoff = w.opts.Backoff
		}
		if !pause(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, w.opts.MaxBackoff)
	}
}

type watcher struct {
	dial Dialer
	gate *Gate
	opts WatchOptions
	log  *slog.Logger
	last string // what was logged last: a state is logged once, not at every poll
}

// session polls over one control connection until that ends, and reports
// whether tor answered at all. The gate is shut before anything else is done.
func (w *watcher) session(ctx context.Context) (answered bool) {
	tor, closer, err := w.connect(ctx)
	if err != nil {
		w.shut(ctx, err)
		return false
	}
	defer closer.Close()
	for {
		now, err := w.poll(ctx, tor)
		if err != nil {
			w.shut(ctx, err)
			return answered
		}
		answered = true
		w.update(now)
		interval := w.opts.Starting
		if now.percent == bootstrapped {
			interval = w.opts.Steady
		}
		if !pause(ctx, interval) {
			return answered
		}
	}
}

// connect dials within the deadline, whether or not the dialer obeys its context.
func (w *watcher) connect(ctx context.Context) (Tor, io.Closer, error) {
	type connection struct {
		tor    Tor
		closer io.Closer
		err    error
	}
	ctx, cancel := context.WithTimeout(ctx, w.opts.Deadline)
	defer cancel()
	dialled := make(chan connection)
	go func() {
		tor, closer, err := w.dial(ctx)
		select {
		case dialled <- connection{tor, closer, err}:
		case <-ctx.Done():
			if err == nil {
				closer.Close() // nobody waits for it any more
			}
		}
	}()
	select {
	case c := <-dialled:
		return c.tor, c.closer, c.err
	case <-ctx.Done():
		return nil, nil, errHung
	}
}

// status is what tor says of itself.
type status struct {
	percent int
	summary string
}

// poll asks tor once within the deadline, whether or not Bootstrap obeys its context.
func (w *watcher) poll(ctx context.Context, tor Tor) (status, error) {
	type answer struct {
		status
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, w.opts.Deadline)
	defer cancel()
	answered := make(chan answer, 1) // room for an answer that comes too late
	go func() {
		percent, summary, err := tor.Bootstrap(ctx)
		answered <- answer{status{percent, summary}, err}
	}()
	select {
	case a := <-answered:
		return a.status, a.err
	case <-ctx.Done():
		return status{}, errHung
	}
}

// update sets the gate to what tor said.
func (w *watcher) update(now status) {
	w.gate.Set(now.percent == bootstrapped)
	if state := fmt.Sprintf("%d %s", now.percent, now.summary); state != w.last {
		w.last = state
		w.log.Info("tor answered", "bootstrapped_percent", now.percent, "summary", now.summary)
	}
}

// shut closes the gate because tor is not to be reached; but an error that is
// only our own end says nothing of tor.
func (w *watcher) shut(ctx context.Context, cause error) {
	if ctx.Err() != nil {
		return
	}
	w.gate.Set(false)
	if state := cause.Error(); state != w.last {
		w.last = state
		w.log.Warn("gate shut", "cause", cause)
	}
}

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
