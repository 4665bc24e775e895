package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/router"
)

func newTorBridges() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bridges",
		Short: "List the bridges by which tor enters the network, and the programs of their transports",
		Long: `bridges lists what tor has been given, by torbpf or in its own torrc, whether it goes by each
now, and the programs of pluggable transports, with the package of one that is missing.`,
	}
	return newNoun(cmd, func(ctx context.Context, r *router.Router) (shown, error) {
		report, err := r.Bridges(ctx)
		return shown{json: report, print: func(w io.Writer) error { return listBridges(w, report) }}, err
	})
}

func listBridges(w io.Writer, report *router.BridgeReport) error {
	if !report.Enabled {
		fmt.Fprintln(w, "tor enters the network by guards of its own choice, not by bridges (attach --bridge)")
	}
	if len(report.Bridges) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "TOR\tBRIDGE\tTRANSPORT\tSTATE\tFINGERPRINT")
	for _, b := range report.Bridges {
		state := b.State
		if b.Connected {
			state = "connected"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", b.Instance, b.Address, cmp.Or(b.Transport, "-"), state, cmp.Or(b.Fingerprint, "-"))
	}
	if len(report.Transports) > 0 {
		fmt.Fprintln(t, "\nTRANSPORT\tPROGRAM")
	}
	for _, p := range report.Transports {
		text := p.Program
		if !p.Found {
			text = "MISSING: " + p.Install
		}
		fmt.Fprintf(t, "%s\t%s\n", p.Name, text)
	}
	return t.Flush()
}
