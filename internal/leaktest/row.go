package leaktest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
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
	if b.fast != nil {
		b.fast.stop()
		b.fast = nil
	}
	b.letGateGo()
	row.Err = errors.Join(row.Err, call(&b.before), b.detach(), call(&b.after))
	return row
}

// inflicted is Run without the way back.
func (b *Bench) inflicted(row *Row, r Recovery) error {
	f := row.Fault
	peers, err := b.prepare(f, r)
	if err != nil {
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
	row.Recovery, err = b.healed(f, r)
	rest(b.ctx, f.Lingers)
	err = errors.Join(err, load.stop(), b.watch.settle(b.ctx))
	row.Seen = b.watch.Seen()
	if f.Forgotten {
		b.watch.closedTo = peers
	}
	row.Leaks = slices.DeleteFunc(b.watch.Leaks(peers), b.right)
	return errors.Join(err, r.End(b))
}

// healed has the fault repaired, where there is something to repair. Flows that are fast have to end with
// their exclusion before that already, if the command can work.
func (b *Bench) healed(f Fault, r Recovery) (took time.Duration, err error) {
	if b.fast != nil {
		_ = b.fast.end() // it is heard of below
	}
	if !f.Ends {
		took, err = b.recover(r)
	}
	if b.fast != nil && err == nil {
		err = b.fast.end()
	}
	return took, err
}

// prepare brings the bench to where a fault begins, and returns the far ends of connections
// that attach has cut.
func (b *Bench) prepare(f Fault, r Recovery) ([]peer, error) {
	peers, err := openConnections(b.ctx, b.Lab, b.senders()[0])
	if err != nil {
		return nil, fmt.Errorf("connect before attach: %w", err)
	}
	if b.watch, err = NewWatch(b.ctx, b.Lab); err != nil {
		return nil, err
	}
	b.watch.own = f.Own
	if f.Prepare != nil {
		if err := f.Prepare(b); err != nil {
			return nil, fmt.Errorf("prepare: %w", err)
		}
	}
	if f.Fresh {
		return peers, nil
	}
	if err := b.attach(f.Args...); err != nil {
		return nil, err
	}
	if f.Prepare == nil && !f.Own {
		if peers, err = b.connectAgain(f, peers); err != nil {
			return nil, err
		}
	}
	if f.Fast {
		if err := b.accelerate(slices.Contains(f.Args, flowtable)); err != nil {
			return nil, fmt.Errorf("accelerate: %w", err)
		}
	}
	return peers, errors.Join(b.holdGate(), r.Begin(b))
}

// connectAgain begins anew where torbpf could not know of the connections. The kernel forgets
// what was masqueraded when an uplink goes or loses its address, and does so some time later: on a
// busy machine what belongs to the fault before takes connections of this one with it.
func (b *Bench) connectAgain(f Fault, peers []peer) ([]peer, error) {
	for range 3 {
		known, err := b.cutKnows(peers)
		if known || err != nil {
			return peers, err
		}
		if err := b.detach(); err != nil {
			return nil, err
		}
		if peers, err = openConnections(b.ctx, b.Lab, b.senders()[0]); err != nil {
			return nil, fmt.Errorf("connect before attach: %w", err)
		}
		if err := b.attach(f.Args...); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("attach has not cut what was open before")
}

// cutKnows tells whether torbpf has cut all connections of IPv4. Of IPv6 nobody keeps track.
func (b *Bench) cutKnows(peers []peer) (bool, error) {
	m, err := ebpf.LoadPinnedMap(b.pins("maps", abi.DatapathMapCutFlows), nil)
	if err != nil {
		return false, fmt.Errorf("open the map of what was cut: %w", err)
	}
	defer m.Close()
	for _, p := range peers {
		if !p.to.Addr().Is4() {
			continue
		}
		var until abi.DatapathDeadline
		switch err := m.Lookup(p.flow(), &until); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("look up what was cut: %w", err)
		}
	}
	return true, nil
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
