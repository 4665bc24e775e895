package leaktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Soak inflicts faults at random, each repaired before the next, on a router that is attached
// once and never rests: for half of the time devices try everything, then, in client mode, the
// router itself. It prints each, and at the end of each half what grew.
type Soak struct {
	Out      io.Writer
	Duration time.Duration
	Seed     uint64
}

// Run tells whether nothing leaked and nothing grew.
func (s *Soak) Run(ctx context.Context, series *Series) (ok bool, err error) {
	defer func() { err = errors.Join(err, series.Close()) }()
	b, err := series.newBench(ctx)
	if err != nil {
		return false, err
	}
	ok = true
	for _, h := range []*half{{out: s.Out, who: "devices"}, {out: s.Out, who: "the router itself", own: true}} {
		fmt.Fprintf(s.Out, "soak by %s for %v with seed %d\n", h.who, s.Duration/2, s.Seed)
		if err := h.run(ctx, b, series.Recovery, s.Duration/2, s.Seed); err != nil {
			return false, fmt.Errorf("%w (seed %d)", err, s.Seed)
		}
		grown := h.summary(s.Duration/2, s.Seed)
		ok = ok && len(h.leaks) == 0 && grown == 0
	}
	return ok, nil
}

// half is one of a soak's.
type half struct {
	out io.Writer
	who string // tries everything
	own bool   // it is the router itself

	faults, seen int
	leaks        []Leak
	sent         Tally
	slowest      time.Duration
	samples      [][]int
}

func (h *half) run(ctx context.Context, b *Bench, r Recovery, duration time.Duration, seed uint64) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // who captured for this half
	b.ctx, b.own, b.lan = ctx, h.own, lan
	if h.own {
		b.lan = ""
	}
	defer func() {
		b.letGateGo()
		err = errors.Join(err, call(&b.before), b.detach(), call(&b.after))
	}()
	peers, err := b.prepare(Fault{Own: h.own}, r)
	if err != nil {
		return err
	}
	b.watch.Reset()
	load := startTraffic(ctx, b.Lab, b.senders(), &h.sent, peers, false)
	defer func() { err = errors.Join(err, load.stop(), r.End(b)) }()
	choice, random := soakFaults(h.own), rand.New(rand.NewPCG(seed, 0))
	for end := time.Now().Add(duration); time.Now().Before(end); h.faults++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f := choice[random.IntN(len(choice))]
		if err := h.one(b, f, r, load, peers); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

// soakFaults are those that need nothing but an attached router, or one in client mode.
func soakFaults(own bool) []Fault {
	var out []Fault
	for _, f := range Faults() {
		if f.Own == own && !f.Once && !f.Fresh && !f.Ends && f.Lacks == nil {
			out = append(out, f)
		}
	}
	return out
}

// one inflicts a fault and has it repaired.
func (h *half) one(b *Bench, f Fault, r Recovery, load *traffic, peers []peer) error {
	if len(f.Args) > 0 { // by clsact, and then by tcx again
		if err := b.torbpf("attach", "--no-wait", "--clsact"); err != nil {
			return err
		}
		b.undo(func() error { return b.torbpf("attach", "--no-wait", "--clsact=false") })
	}
	b.letGateGo()
	if err := b.holdGate(); err != nil {
		return err
	}
	if err := load.underWay(b.ctx); err != nil {
		return err
	}
	if err := f.Inflict(b); err != nil {
		return fmt.Errorf("inflict: %w", err)
	}
	b.unframed = f.Unframed
	if err := b.watch.battery(b.ctx, b.senders(), &h.sent); err != nil {
		return err
	}
	took, err := b.recover(r)
	if err != nil {
		return err
	}
	if err := call(&b.after); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	h.slowest = max(h.slowest, took)
	h.look(b, f, peers, took)
	sample, err := b.sample()
	h.samples = append(h.samples, sample)
	return err
}

// look takes in what got out since the fault before.
func (h *half) look(b *Bench, f Fault, peers []peer, took time.Duration) {
	h.seen += b.watch.Seen()
	found := b.watch.Leaks(peers)
	b.watch.Reset()
	h.leaks = append(h.leaks, found...)
	fmt.Fprintf(h.out, "%4d %-72.72s %3d leaks, recovered in %.2f s\n", h.faults+1, f.Name, len(found), took.Seconds())
	for _, line := range Summary(found) {
		fmt.Fprintf(h.out, "    LEAK: %s\n", line)
	}
}

// summary prints the measures and returns how many grew.
func (h *half) summary(duration time.Duration, seed uint64) (grown int) {
	fmt.Fprintf(h.out, "%-50s %8s %8s %8s\n", "", "first", "last", "highest")
	for i, m := range measures {
		if len(h.samples) == 0 {
			break
		}
		third := max(1, len(h.samples)/3)
		early, late := highest(h.samples[:third], i), highest(h.samples[len(h.samples)-third:], i)
		verdict := ""
		if !m.told && late > early && (m.slack == 0 || late > early+early/4+m.slack) {
			verdict = "  GROWN"
			grown++
		}
		fmt.Fprintf(h.out, "%-50s %8d %8d %8d%s\n", m.name, h.samples[0][i], h.samples[len(h.samples)-1][i], highest(h.samples, i), verdict)
	}
	fmt.Fprintf(h.out, "%d faults at random and all that %s may try in %v (seed %d): %d probes, %d packets on the WAN, %d leaks, %d measures grew, slowest recovery %.2f s\n",
		h.faults, h.who, duration, seed, h.sent.Total(), h.seen, len(h.leaks), grown, h.slowest.Seconds())
	return grown
}

func highest(samples [][]int, measure int) int {
	most := 0
	for _, sample := range samples {
		most = max(most, sample[measure])
	}
	return most
}
