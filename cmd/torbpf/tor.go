package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/tor"
)

func newTor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tor",
		Short: "How tor is, by which circuits and bridges it goes, and new circuits",
		Args:  knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{err: errors.New("status, circuits, newnym or bridges?"), command: cmd.CommandPath()}
		},
	}
	cmd.AddCommand(newTorStatus(), newTorCircuits(), newTorNewnym(), newTorBridges())
	return cmd
}

func newTorStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how each tor is: its bootstrap, circuits, traffic and guards",
		Long: `status shows what each tor says of itself: how far it is, how many circuits it has, what it
has read and written since it was started, and the guards by which it goes into the network.
Of one that does not answer it says why, and what to do.`,
	}
	return newNoun(cmd, func(ctx context.Context, r *router.Router) (shown, error) {
		report, err := r.TorReport(ctx)
		return shown{json: report, print: func(w io.Writer) error { return printTorReport(w, report) }}, err
	})
}

func printTorReport(w io.Writer, report *router.TorReport) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i, details := range report.Instances {
		if i > 0 {
			fmt.Fprintln(t)
		}
		name := "Tor"
		if len(report.Instances) > 1 {
			name = fmt.Sprintf("Tor %d", details.Instance)
		}
		printTorDetails(t, name, string(report.Mode), details)
	}
	return t.Flush()
}

func printTorDetails(t io.Writer, name, mode string, d router.TorDetails) {
	if !d.Alive {
		fmt.Fprintf(t, "%s\t%s\tno answer: %s\n", name, mode, d.Summary)
		if d.Skew != "" {
			fmt.Fprintf(t, "\tclock\tthis machine's is %s, tor says\n", d.Skew)
		}
		fmt.Fprintf(t, "\tnext\t%s\n", d.Next)
		return
	}
	text := fmt.Sprintf("%s, %d%% (%s)", d.Version, d.Percent, d.Summary)
	if !d.Ready {
		text += ": not ready"
	}
	fmt.Fprintf(t, "%s\t%s\t%s\n", name, mode, text)
	if d.Warning != "" && d.Percent < 100 {
		fmt.Fprintf(t, "\twarns\t%s\n", d.Warning)
	}
	if d.Skew != "" {
		fmt.Fprintf(t, "\tclock\tthis machine's is %s, tor says: set it, or no circuit can be built\n", d.Skew)
	}
	fmt.Fprintf(t, "\tprocess\t%d, for %s, control %s\n", d.PID, shortTime(d.Uptime), d.Control)
	fmt.Fprintf(t, "\tcircuits\t%s\n", circuitWords(d))
	fmt.Fprintf(t, "\ttraffic\t%s\n", trafficWords(d))
	fmt.Fprintf(t, "\tguards\t%s\n", guardWords(d.Guards))
	for _, b := range d.Bridges {
		fmt.Fprintf(t, "\tbridge\t%s\n", bridgeWords(b))
	}
}

// circuitWords count circuits by their state, those that can be used first.
func circuitWords(d router.TorDetails) string {
	out := []string{fmt.Sprintf("%d built", d.States[tor.Built])}
	for _, state := range slices.Sorted(maps.Keys(d.States)) {
		if state != tor.Built {
			out = append(out, fmt.Sprintf("%d %s", d.States[state], strings.ToLower(strings.ReplaceAll(state, "_", " "))))
		}
	}
	text := strings.Join(out, ", ")
	if d.Dormant {
		text += "; dormant: it builds none until somebody asks for something"
	}
	if !d.Network {
		text += "; it has heard nothing of the Tor network lately"
	}
	return text
}

func trafficWords(d router.TorDetails) string {
	text := fmt.Sprintf("%s read, %s written since its start", size(d.Read), size(d.Written))
	if d.Rate != nil {
		text += fmt.Sprintf("; now %s/s and %s/s", size(d.Rate.Read), size(d.Rate.Written))
	}
	return text
}

func guardWords(guards []tor.Guard) string {
	var out []string
	for _, g := range guards {
		how := g.State
		if g.Connected {
			how = "connected"
		}
		out = append(out, fmt.Sprintf("%s (%s)", relayWords(g.Relay), how))
	}
	if len(out) == 0 {
		return "none yet"
	}
	return strings.Join(out, ", ")
}

func bridgeWords(b tor.BridgeStatus) string {
	text, how := b.Address, b.State
	if b.Transport != "" {
		text += " by " + b.Transport
	}
	if b.Connected {
		how = "connected"
	}
	return fmt.Sprintf("%s (%s)", text, how)
}

// relayWords name a relay as people know it, or by the begin of its fingerprint.
func relayWords(r tor.Relay) string {
	if r.Nickname != "" {
		return r.Nickname
	}
	return "$" + r.Fingerprint[:8]
}
