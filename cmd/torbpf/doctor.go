package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/router"
)

// errUnwell is what doctor returns where something is wrong.
var errUnwell = errors.New("something is wrong: see above what to do about it")

func newDoctor() *cobra.Command {
	var (
		o           router.DoctorOptions
		asJSON, all bool
		bundle      string
	)
	cmd := &cobra.Command{
		Use:   "doctor [INTERFACE...]",
		Short: "Find what is wrong with this host for torbpf, or with what is attached, and say what to type",
		Long: `doctor looks at the kernel, the interfaces, other people's firewalls and programs, the
network and tor, and says of what it finds wrong what to type. It changes nothing and
sends no packet. Before attach it judges the named interfaces as if they were to be
LANs; with none named those of the configuration, or else all that could be. While
something is attached it looks at that as well. docs/DOCTOR.md has every check.

--bundle writes an archive of what helps others to find out more, with everything replaced
that tells who and where you are, so that it can be posted; it takes root.

Exit code 0: nothing is wrong. 1: something is. 5: nothing is wrong as far as could be
seen, but some of it is root's to see.`,
		Example: `  sudo torbpf doctor eth1
  sudo torbpf doctor
  sudo torbpf doctor --all --json
  sudo torbpf doctor --bundle torbpf.tar.gz`,
		Args:              apartArgs,
		ValidArgsFunction: completeLANs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			o.Interfaces = args
			if len(args) > 0 && !cmd.Flags().Changed("config") {
				o.File = ""
			}
			report, err := examine(cmd.Context(), r, o, bundle)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = printReport(cmd.OutOrStdout(), report, all)
			}
			return errors.Join(diagnosis(report), err)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.File, "config", config.DefaultFile, "the configuration file to judge where nothing is attached, and to compare with what is")
	flags.BoolVar(&all, "all", false, "print what is sound as well")
	flags.BoolVar(&asJSON, "json", false, "print as JSON")
	flags.StringVar(&bundle, "bundle", "", "write a redacted archive (tar.gz) to this file, which must not exist")
	return cmd
}

// examine has a report made, and a bundle where one is asked for.
func examine(ctx context.Context, r *router.Router, o router.DoctorOptions, bundle string) (*doctor.Report, error) {
	if bundle == "" {
		return r.Doctor(ctx, o)
	}
	report, err := r.Bundle(ctx, o, bundle)
	if err == nil {
		fmt.Fprintf(os.Stderr, "wrote %s: look through it before you post it\n", bundle)
	}
	return report, err
}

// diagnosis is the error that a report stands for.
func diagnosis(r *doctor.Report) error {
	switch r.Verdict {
	case doctor.Problem, doctor.Warning:
		return errUnwell
	case doctor.Unknown:
		return fmt.Errorf("not all could be looked at: %w", router.ErrPrivilege)
	}
	return nil
}

// printReport prints what is wrong, the worst first, each with what to type on a line of its own.
func printReport(w io.Writer, r *doctor.Report, all bool) error {
	p := &reportPrinter{w: w}
	for i := range doctor.Verdicts {
		v := doctor.Verdicts[len(doctor.Verdicts)-1-i]
		if v == doctor.OK || v == doctor.NotApplicable {
			continue
		}
		for _, c := range r.Checks {
			for _, f := range c.Findings {
				if f.Verdict == v {
					p.finding(c, f)
				}
			}
		}
	}
	if all {
		p.sound(r)
	}
	p.summary(r)
	return p.err
}

// reportPrinter keeps the first error of writing.
type reportPrinter struct {
	w   io.Writer
	err error
}

func (p *reportPrinter) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// columns is how wide a terminal is at least.
const columns = 80

// finding prints one; what to type is not broken, so that it can be copied.
func (p *reportPrinter) finding(c doctor.Result, f doctor.Finding) {
	p.line("%s: %s (%s)", strings.ToUpper(string(f.Verdict)), c.ID, c.Group)
	for _, line := range wrapped(f.Reason, columns-2) {
		p.line("  %s", line)
	}
	for _, fix := range f.Fix {
		p.line("    %s", fix)
	}
	p.line("")
}

// sound lists what is, a line each.
func (p *reportPrinter) sound(r *doctor.Report) {
	for _, c := range r.Checks {
		if c.Verdict != doctor.OK && c.Verdict != doctor.NotApplicable {
			continue
		}
		why := ""
		if len(c.Findings) > 0 {
			why = c.Findings[0].Reason
		}
		line := fmt.Sprintf("%-14s %-10s %-16s %s", c.Verdict, c.Group, c.ID, why)
		p.line("%s", strings.TrimRight(shortened(line, columns), " "))
	}
	p.line("")
}

func (p *reportPrinter) summary(r *doctor.Report) {
	names := r.Interfaces
	if r.Client {
		names = append(slices.Clone(names), "this machine itself")
	}
	about := cmp.Or(strings.Join(names, ", "), "no interface")
	if !r.Attached {
		about += ", not attached yet"
	}
	counts := make(map[doctor.Verdict]int)
	for _, c := range r.Checks {
		counts[c.Verdict]++
	}
	text := fmt.Sprintf("looked at %s: %d sound, %s, %s, %s", about, counts[doctor.OK],
		counted(counts[doctor.Problem], "problem", "problems"), counted(counts[doctor.Warning], "warning", "warnings"), counted(counts[doctor.Note], "note", "notes"))
	if n := counts[doctor.Unknown]; n > 0 {
		text += fmt.Sprintf(", %d that could not be looked at", n)
	}
	for _, line := range wrapped(text, columns) {
		p.line("%s", line)
	}
}

// wrapped breaks a text into lines.
func wrapped(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// shortened cuts a line that is too long.
func shortened(line string, width int) string {
	if len(line) <= width {
		return line
	}
	return line[:width-1] + "…"
}
