package tor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Progress is how far tor's bootstrap has come.
type Progress struct {
	Percent int    // 100 means that Tor can be used
	Tag     string // short name of the phase, such as "conn_done"
	Summary string // the same for people
	Warning string // what tor complains of in this phase, often ""
	// ClockSkew says that it complains of the clock.
	ClockSkew bool
}

func (p Progress) String() string {
	s := fmt.Sprintf("%d%% (%s): %s", p.Percent, p.Tag, p.Summary)
	if p.Warning != "" {
		s += "; tor warns: " + p.Warning
	}
	return s
}

// Bootstrap asks how far tor has come.
func (c *Control) Bootstrap(ctx context.Context) (Progress, error) {
	value, err := c.GetInfo(ctx, "status/bootstrap-phase")
	if err != nil {
		return Progress{}, err
	}
	return parseBootstrap(value)
}

// parseBootstrap reads `NOTICE BOOTSTRAP PROGRESS=80 TAG=conn_or SUMMARY="…"`.
func parseBootstrap(s string) (Progress, error) {
	ws, err := words(s)
	if err != nil {
		return Progress{}, fmt.Errorf("read tor's bootstrap phase: %w", err)
	}
	if len(ws) < 3 || ws[1] != (word{value: "BOOTSTRAP"}) {
		return Progress{}, fmt.Errorf("read tor's bootstrap phase: %q is not one", s)
	}
	p := Progress{Percent: -1}
	for _, w := range ws[2:] {
		switch w.key {
		case "PROGRESS":
			if p.Percent, err = strconv.Atoi(w.value); err != nil {
				return Progress{}, fmt.Errorf("read tor's bootstrap phase: %w", err)
			}
		case "TAG":
			p.Tag = printable(w.value)
		case "SUMMARY":
			p.Summary = printable(w.value)
		case "WARNING":
			p.Warning = printable(w.value)
		case "REASON":
			p.ClockSkew = w.value == "CLOCK_SKEW"
		}
	}
	if p.Percent < 0 || p.Percent > 100 {
		return Progress{}, fmt.Errorf("read tor's bootstrap phase: no percentage in %q", s)
	}
	return p, nil
}

// pollEvery is how often tor is asked while somebody waits for it.
const pollEvery = 200 * time.Millisecond

// WaitBootstrap asks tor until it is ready or ctx ends. Each change is given
// to report, which may be nil. A connection that breaks is dialled anew.
func WaitBootstrap(ctx context.Context, dial func(context.Context) (*Control, error), report func(Progress)) error {
	w := waiter{dial: dial, report: report}
	return w.wait(ctx)
}

type waiter struct {
	dial   func(context.Context) (*Control, error)
	report func(Progress)

	control *Control
	last    Progress
	seen    bool
	failed  error // of the last attempt, nil if tor answered or ctx cut it short
}

func (w *waiter) wait(ctx context.Context) error {
	defer w.hangUp()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		failed := w.failed
		p, err := w.ask(ctx)
		if w.failed = err; err != nil && ended(ctx) {
			w.failed = failed
		}
		if err != nil {
			w.hangUp()
		} else if !w.seen || p != w.last {
			w.last, w.seen = p, true
			if w.report != nil {
				w.report(p)
			}
		}
		if err == nil && p.Percent == 100 {
			return nil
		}
		select {
		case <-ctx.Done():
			return w.explain(WaitOver(context.Cause(ctx)))
		case <-tick.C:
		}
	}
}

func (w *waiter) ask(ctx context.Context) (Progress, error) {
	if w.control == nil {
		c, err := w.dial(ctx)
		if err != nil {
			return Progress{}, err
		}
		w.control = c
	}
	return w.control.Bootstrap(ctx)
}

func (w *waiter) hangUp() {
	if w.control != nil {
		_ = w.control.Close()
		w.control = nil
	}
}

// ended says whether ctx is why something failed. A dialer gives up at the
// deadline, which may be a moment before ctx says so.
func ended(ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(d)
}

// WaitOver says why a wait ended, of a deadline in the words of who set it: --timeout.
func WaitOver(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return waitOver{cause}
	}
	return cause
}

type waitOver struct{ cause error }

func (waitOver) Error() string { return "the time to wait (--timeout) is over" }

// Unwrap makes errors.Is find the cause.
func (w waitOver) Unwrap() error { return w.cause }

// explain says where the bootstrap stopped and what to look at.
func (w *waiter) explain(cause error) error {
	const next = "check the router's own connection and its clock; if the network blocks Tor, add bridges (attach --bridge, or bridges below [tor] in the configuration)"
	switch {
	case w.failed != nil:
		return fmt.Errorf("wait for tor to bootstrap: %w: tor does not answer: %w", cause, w.failed)
	case !w.seen:
		return fmt.Errorf("wait for tor to bootstrap: %w: tor does not answer; if it hangs, stop and start it", cause)
	}
	return fmt.Errorf("wait for tor to bootstrap: %w, and it is at %s; %s", cause, w.last, next)
}
