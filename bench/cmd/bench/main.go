// Command bench measures torbpf on this machine beside the alternatives, in network
// namespaces of its own, and prints what it has found.
//
//	bench ./torbpf                             tables
//	bench --out FILE --chart FILE ./torbpf     and a file for later comparison, and a picture
//	bench --rows layers,bulk-tcp ./torbpf      some rows, while a change is being made
//	bench --compare FILE ./torbpf              and what got slower since then
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/bench/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := options{}
	var out, chart, compare string
	cmd := &cobra.Command{
		Use:           "bench PATH-OF-TORBPF",
		Short:         "Measure torbpf on this machine, beside the alternatives",
		Args:          cobra.ExactArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var before *report.Result // read first: a run takes minutes
			if compare != "" {
				if before, err = report.ReadFile(compare); err != nil {
					return err
				}
			}
			if o.program, err = filepath.Abs(args[0]); err != nil {
				return err
			}
			o.progress = func(text string) { fmt.Fprintf(cmd.ErrOrStderr(), "bench: %s\n", text) }
			result, err := run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := store(result, out, chart); err != nil {
				return err
			}
			return tell(cmd, before, result)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.rounds, "rounds", 31, "rounds of packets, streams and connections")
	flags.StringSliceVar(&o.only, "rows", nil, "measure these rows of packets, streams, connections and Tor alone, and nothing else: layers,udp-64,tors (default all but those of Tor)")
	flags.StringSliceVar(&o.configs, "configs", nil, "build these configurations alone, beside the sender: nft,fast,flowtable (default all)")
	flags.BoolVar(&o.tor, "tor", false, "bulk TCP through a private Tor network, too (a minute)")
	flags.StringVar(&out, "out", "", "write the result to this file")
	flags.StringVar(&chart, "chart", "", "draw the rows of packets into this file (SVG)")
	flags.StringVar(&compare, "compare", "", "a result of before: say what got slower, and fail if anything did")
	return cmd
}

func store(r *report.Result, out, chart string) error {
	if out != "" {
		if err := r.Write(out); err != nil {
			return err
		}
	}
	if chart == "" {
		return nil
	}
	return r.WriteChart(chart, "udp-64", "tcp-64", "refused-many")
}

func tell(cmd *cobra.Command, before, now *report.Result) error {
	if err := now.Print(cmd.OutOrStdout()); err != nil || before == nil {
		return err
	}
	slower, err := report.PrintChanges(cmd.OutOrStdout(), report.Compare(before, now))
	if err == nil && slower {
		err = errors.New("something got slower than it was")
	}
	return err
}
