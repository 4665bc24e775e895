package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printer keeps the first error of writing.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// Print writes a result as tables: of each configuration the median, the quartiles, and
// its share of the row's base with the bounds of that.
func (r *Result) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p := &printer{w: t}
	p.line("torbpf %s, %s", r.Version, r.Taken.Format("2006-01-02 15:04"))
	r.Machine.print(p)
	for i := range r.Rows {
		r.Rows[i].print(p)
	}
	r.printObjects(p)
	r.printTargets(p)
	if p.err != nil {
		return p.err
	}
	return t.Flush()
}

func (m Machine) print(p *printer) {
	priority := "real-time"
	if !m.Realtime {
		priority = "ordinary"
	}
	p.line("%s, %d cores, Linux %s, %s, BPF objects by clang %s, %s", m.CPU, m.Cores, m.Kernel, m.NIC, m.Compiler, m.Go)
	p.line("clock: %s, priority: %s, load: %.1f before, %.1f after", m.Clock, priority, m.LoadBefore, m.LoadAfter)
}

func (r *Row) print(p *printer) {
	p.line("\n%s (%s)", r.Title, r.Unit)
	for _, c := range r.Cells {
		e := Estimated(c.Samples)
		low, high := Quartiles(c.Samples)
		line := fmt.Sprintf("  %s\t%s\t%s to %s", c.Title, figure(e.Median), figure(low), figure(high))
		if r.Base != "" && c.Config != r.Base {
			share := r.estimate(c.Config)
			line += fmt.Sprintf("\t%.2f of %s (%.2f to %.2f)", share.Median, r.Base, share.Low, share.High)
		}
		p.line("%s", line)
	}
}

func (r *Result) printObjects(p *printer) {
	if len(r.Programs) > 0 {
		p.line("\nprograms: instructions verified, bytes of machine code")
	}
	for _, o := range r.Programs {
		p.line("  %s\t%d\t%d", o.Name, o.Instructions, o.JITed)
	}
	var sum uint64
	for _, m := range r.Maps {
		sum += m.Bytes
	}
	if len(r.Maps) == 0 {
		return
	}
	p.line("\nmaps: KiB of memory, %d in all; those of 64 and more:", sum>>10)
	for _, m := range r.Maps {
		if m.Bytes >= 64<<10 {
			p.line("  %s\t%d", m.Name, m.Bytes>>10)
		}
	}
}

func (r *Result) printTargets(p *printer) {
	judged := r.Judge(Targets())
	if len(judged) == 0 {
		return
	}
	p.line("\ntargets")
	for _, j := range judged {
		word := "at most"
		if j.Higher {
			word = "at least"
		}
		p.line("  %s: %s of %s\t%s %.2f\t%.2f (%.2f to %.2f)\t%s",
			j.Title, j.Config, j.Base, word, j.Bound, j.Ratio.Median, j.Ratio.Low, j.Ratio.High, j.Verdict)
	}
}

// PrintChanges writes what differs between two runs, and tells whether anything got slower.
func PrintChanges(w io.Writer, changes []Change) (slower bool, err error) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p := &printer{w: t}
	p.line("\ncompared with the stored run")
	for _, c := range changes {
		said := "the same within the spread"
		switch {
		case c.Slower:
			said, slower = "SLOWER", true
		case c.Faster:
			said = "faster"
		}
		of := ""
		if c.Against != "" {
			of = " of " + c.Against
		}
		p.line("  %s, %s%s\t%s (%s to %s)\tnow %s (%s to %s)\t%s", c.Row, c.Config, of,
			figure(c.Before.Median), figure(c.Before.Low), figure(c.Before.High),
			figure(c.Now.Median), figure(c.Now.Low), figure(c.Now.High), said)
	}
	if p.err != nil {
		return slower, p.err
	}
	return slower, t.Flush()
}

// figure has three digits or more.
func figure(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	default:
		return strings.TrimSuffix(fmt.Sprintf("%.3f", f), "0")
	}
}
