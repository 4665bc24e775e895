package leaktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// Series runs faults one after the other, in a lab of its own that it replaces when
// a row may have left something in it.
type Series struct {
	Program  string
	Recovery Recovery
	Args     []string // of every attach to a LAN, beside those of the fault
	bench    *Bench
}

// NewBench returns the bench of a lab of the series' own.
func (s *Series) newBench(ctx context.Context) (*Bench, error) {
	if s.bench != nil {
		return s.bench, nil
	}
	lab, err := testnet.Start(ctx, testnet.Options{NoTor: true, SecondLAN: true})
	if err != nil {
		return nil, err
	}
	if s.bench, err = NewBench(ctx, lab, s.Program); err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	s.bench.args = s.Args
	return s.bench, nil
}

// Run runs one fault.
func (s *Series) Run(ctx context.Context, f Fault) (*Row, error) {
	// What is left of connections of LANs that were on Tor is in clear when they are not.
	if s.bench != nil && s.bench.own != f.Own {
		if err := s.Close(); err != nil {
			return nil, err
		}
	}
	b, err := s.newBench(ctx)
	if err != nil {
		return nil, err
	}
	row := b.Run(ctx, f, s.Recovery)
	// Flows that were direct meanwhile may still end, in clear.
	if !row.OK() || f.Fresh || f.Ends {
		return row, s.Close()
	}
	return row, nil
}

// Close ends the lab, if there is one.
func (s *Series) Close() error {
	if s.bench == nil {
		return nil
	}
	lab := s.bench.Lab
	s.bench = nil
	return lab.Close()
}

// Table prints the rows as they come, and a line of totals.
type Table struct {
	Out io.Writer

	faults, lacking, bad int
	sent                 int64
	seen, leaks          int
	slowest              time.Duration
	began                time.Time
}

// Header prints the columns: probes sent of each group, the share of IPv6, what of
// it all was seen on the WAN, what of that was a leak, and the time to recover.
func (t *Table) Header() {
	t.began = time.Now()
	fmt.Fprintf(t.Out, "%-72.72s", "fault")
	for g := range groups {
		fmt.Fprintf(t.Out, " %6s", g)
	}
	fmt.Fprintf(t.Out, " %5s %6s %5s %8s\n", "ipv6", "on wan", "leaks", "recovery")
}

// Add prints one row.
func (t *Table) Add(row *Row) {
	if row.Lacks != "" {
		t.lacking++
		fmt.Fprintf(t.Out, "%-72.72s not on this kernel: %s\n", row.Fault.Name, row.Lacks)
		return
	}
	t.faults++
	t.sent += row.Sent.Total()
	t.seen += row.Seen
	t.leaks += len(row.Leaks)
	t.slowest = max(t.slowest, row.Recovery)
	fmt.Fprintf(t.Out, "%-72.72s", row.Fault.Name)
	for g := range groups {
		fmt.Fprintf(t.Out, " %6d", row.Sent.groups[g].Load())
	}
	recovery := "-"
	if row.Recovery > 0 {
		recovery = fmt.Sprintf("%.2f s", row.Recovery.Seconds())
	}
	fmt.Fprintf(t.Out, " %4d%% %6d %5d %8s\n", row.Sent.v6.Load()*100/max(1, row.Sent.Total()), row.Seen, len(row.Leaks), recovery)
	for _, line := range Summary(row.Leaks) {
		fmt.Fprintf(t.Out, "    LEAK: %s\n", line)
	}
	if row.Err != nil {
		fmt.Fprintf(t.Out, "    FAILED: %s\n", strings.ReplaceAll(strings.TrimSpace(row.Err.Error()), "\n", "\n        "))
	}
	if !row.OK() {
		t.bad++
	}
}

// Totals prints the last line and tells whether every row was as it should be.
func (t *Table) Totals(kinds int) bool {
	lacking := ""
	if t.lacking > 0 {
		lacking = fmt.Sprintf(" (%d more not on this kernel)", t.lacking)
	}
	fmt.Fprintf(t.Out, "%d faults%s x %d kinds of packet from each of 2 clients: %d probes, %d packets on the WAN, %d leaks, %d faults failed, slowest recovery %.2f s; %v\n",
		t.faults, lacking, kinds, t.sent, t.seen, t.leaks, t.bad, t.slowest.Seconds(), time.Since(t.began).Round(time.Second))
	return t.bad == 0
}

// RunTable runs all faults whose names contain a text and prints the table.
func RunTable(ctx context.Context, out io.Writer, s *Series, containing string) (ok bool, err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	t := &Table{Out: out}
	t.Header()
	for _, f := range Faults() {
		if !strings.Contains(f.Name, containing) {
			continue
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		row, err := s.Run(ctx, f)
		if err != nil {
			return false, err
		}
		t.Add(row)
	}
	b, err := s.newBench(ctx)
	if err != nil {
		return false, err
	}
	return t.Totals(Kinds(b.Lab.Client1)), nil
}
