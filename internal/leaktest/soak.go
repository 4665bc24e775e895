package leaktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Soak inflicts faults at random, each repaired before the next, on one router that
// is attached once and never rests. It prints each, and at the end what grew.
type Soak struct {
	Out      io.Writer
	Duration time.Duration
	Seed     uint64

	faults, seen int
	leaks        []Leak
	sent         Tally
	slowest      time.Duration
	samples      [][]int
}

// Run tells whether nothing leaked and nothing grew.
func (s *Soak) Run(ctx context.Context, series *Series) (ok bool, err error) {
	defer func() { err = errors.Join(err, series.Close()) }()
	b, err := series.newBench(ctx)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(s.Out, "soak of %v with seed %d\n", s.Duration, s.Seed)
	if err := s.run(ctx, b, series.Recovery); err != nil {
		return false, fmt.Errorf("%w (seed %d)", err, s.Seed)
	}
	grown := s.summary()
	return len(s.leaks) == 0 && grown == 0, nil
}

func (s *Soak) run(ctx context.Context, b *Bench, r Recovery) (err error) {
	b.ctx = ctx
	peers, err := openConnections(ctx, b.Lab, b.senders()[0])
	if err != nil {
		return err
	}
	defer func() {
		b.letGateGo()
		err = errors.Join(err, call(&b.before), b.detach(), call(&b.after))
	}()
	if err := b.prepare(Fault{}, r); err != nil {
		return err
	}
	b.watch.Reset()
	load := startTraffic(ctx, b.Lab, b.senders(), &s.sent, peers, false)
	defer func() { err = errors.Join(err, load.stop(), r.End(b)) }()
	choice, random := soakFaults(), rand.New(rand.NewPCG(s.Seed, 0))
	for end := time.Now().Add(s.Duration); time.Now().Before(end); s.faults++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f := choice[random.IntN(len(choice))]
		if err := s.one(b, f, r, load, peers); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

// soakFaults are those that need nothing but an attached router.
func soakFaults() []Fault {
	var out []Fault
	for _, f := range Faults() {
		if !f.Own && !f.Once && !f.Fresh && !f.Ends && f.Lacks == nil {
			out = append(out, f)
		}
	}
	return out
}

// one inflicts a fault and has it repaired.
func (s *Soak) one(b *Bench, f Fault, r Recovery, load *traffic, peers []peer) error {
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
	if err := b.watch.battery(b.ctx, b.senders(), &s.sent); err != nil {
		return err
	}
	took, err := b.recover(r)
	if err != nil {
		return err
	}
	if err := call(&b.after); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	s.slowest = max(s.slowest, took)
	s.look(b, f, peers, took)
	sample, err := b.sample()
	s.samples = append(s.samples, sample)
	return err
}

// look takes in what got out since the fault before.
func (s *Soak) look(b *Bench, f Fault, peers []peer, took time.Duration) {
	s.seen += b.watch.Seen()
	found := b.watch.Leaks(peers)
	b.watch.Reset()
	s.leaks = append(s.leaks, found...)
	fmt.Fprintf(s.Out, "%4d %-72.72s %3d leaks, recovered in %.2f s\n", s.faults+1, f.Name, len(found), took.Seconds())
	for _, line := range Summary(found) {
		fmt.Fprintf(s.Out, "    LEAK: %s\n", line)
	}
}

// summary prints the measures and returns how many grew.
func (s *Soak) summary() (grown int) {
	fmt.Fprintf(s.Out, "%-50s %8s %8s %8s\n", "", "first", "last", "highest")
	for i, m := range measures {
		if len(s.samples) == 0 {
			break
		}
		third := max(1, len(s.samples)/3)
		early, late := highest(s.samples[:third], i), highest(s.samples[len(s.samples)-third:], i)
		verdict := ""
		if !m.told && late > early && (m.slack == 0 || late > early+early/4+m.slack) {
			verdict = "  GROWN"
			grown++
		}
		fmt.Fprintf(s.Out, "%-50s %8d %8d %8d%s\n", m.name, s.samples[0][i], s.samples[len(s.samples)-1][i], highest(s.samples, i), verdict)
	}
	fmt.Fprintf(s.Out, "%d faults at random in %v (seed %d): %d probes, %d packets on the WAN, %d leaks, %d measures grew, slowest recovery %.2f s\n",
		s.faults, s.Duration, s.Seed, s.sent.Total(), s.seen, len(s.leaks), grown, s.slowest.Seconds())
	return grown
}

func highest(samples [][]int, measure int) int {
	most := 0
	for _, sample := range samples {
		most = max(most, sample[measure])
	}
	return most
}
