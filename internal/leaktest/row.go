package leaktest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Row is what became of one fault.
type Row struct {
	Fault    Fault
	Lacks    string // why there was none
	Sent     Tally
	Seen     int // packets on the WAN
	Leaks    []Leak
	Recovery time.Duration
	Err      error // of inflicting, repairing or restoring
}

// OK tells whether nothing leaked and all went well again.
func (r *Row) OK() bool { return r.Err == nil && len(r.Leaks) == 0 }

func deadline(d time.Duration) time.Time { return time.Now().Add(d) }

// Run inflicts a fault on a router that is as the lab made it, and leaves it so.
//
// From before the fault until after the repair both clients try everything without
// pause; while the fault lasts they do so once more in full, with new flows.
func (b *Bench) Run(ctx context.Context, f Fault, r Recovery) *Row {
	row := &Row{Fault: f}
	if f.Lacks != nil {
		if row.Lacks = f.Lacks(b); row.Lacks != "" {
			return row
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.ctx, b.lan, b.from, b.own = ctx, lan, netip.Addr{}, f.Own
	b.unframed = f.Unframed
	if f.Own {
		b.lan = ""
	}
	b.begins, b.ends = time.Time{}, time.Time{}
	b.before, b.after = nil, nil
	row.Err = b.inflicted(row, r)
	b.letGateGo()
	row.Err = errors.Join(row.Err, call(&b.before), b.detach(), call(&b.after))
	return row
}

// inflicted is Run without the way back.
func (b *Bench) inflicted(row *Row, r Recovery) error {
	f := row.Fault
	peers, err := openConnections(b.ctx, b.Lab, b.senders()[0])
	if err != nil {
		return fmt.Errorf("connect before attach: %w", err)
	}
	if err := b.prepare(f, r); err != nil {
		return err
	}
	b.watch.Reset()
	load := startTraffic(b.ctx, b.Lab, b.senders(), &row.Sent, peers, f.Fresh)
	defer func() { _ = load.stop() }() // heard of below
	if err := load.underWay(b.ctx); err != nil {
		return err
	}
	if err := f.Inflict(b); err != nil {
		return fmt.Errorf("inflict: %w", err)
	}
	if err := b.watch.battery(b.ctx, b.senders(), &row.Sent); err != nil {
		return err
	}
	var recoveryErr error
	if !f.Ends {
		row.Recovery, recoveryErr = b.recover(r)
	}
	rest(b.ctx, f.Lingers)
	err = errors.Join(recoveryErr, load.stop(), b.watch.settle(b.ctx))
	row.Seen = b.watch.Seen()
	if f.Forgotten {
		b.watch.closedTo = peers
	}
	row.Leaks = slices.DeleteFunc(b.watch.Leaks(peers), b.right)
	return errors.Join(err, r.End(b))
}

// prepare brings the bench to where a fault begins.
func (b *Bench) prepare(f Fault, r Recovery) error {
	var err error
	if b.watch, err = NewWatch(b.ctx, b.Lab); err != nil {
		return err
	}
	b.watch.own = f.Own
	if f.Prepare != nil {
		if err := f.Prepare(b); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if f.Fresh {
		return nil
	}
	if err := b.attach(f.Args...); err != nil {
		return err
	}
	if err := b.holdGate(); err != nil {
		return err
	}
	return r.Begin(b)
}

// right says of what got out that nothing was attached then.
func (b *Bench) right(l Leak) bool {
	return !b.begins.IsZero() && l.Time.Before(b.begins) || !b.ends.IsZero() && l.Time.After(b.ends)
}

// recover undoes what torbpf cannot know to change, has it repaired and returns how
// long it took until all was well.
func (b *Bench) recover(r Recovery) (time.Duration, error) {
	b.letGateGo()
	if err := call(&b.before); err != nil {
		return 0, fmt.Errorf("undo: %w", err)
	}
	begin := time.Now()
	if err := r.Repair(b); err != nil {
		return 0, fmt.Errorf("repair: %w", err)
	}
	err := await(b.ctx, "all to be well again", b.well)
	return time.Since(begin), err
}

// detach takes everything away, whatever is left of it.
func (b *Bench) detach() error {
	cmd := b.Lab.Router.Command(context.WithoutCancel(b.ctx), b.Program, "detach", "--all")
	out, err := cmd.CombinedOutput()
	const notAttached = 3
	if b.busy && strings.Contains(string(out), "remove state") {
		return nil
	}
	if err != nil && cmd.ProcessState.ExitCode() != notAttached {
		return fmt.Errorf("detach --all: %w: %s", err, out)
	}
	return nil
}
