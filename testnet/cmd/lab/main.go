// Command lab brings a testnet up by hand: namespaces, addresses and the Tor
// network's names are printed, and everything is gone after Ctrl-C.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/testnet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{Use: "lab", Short: "A private internet with Tor, in namespaces", SilenceUsage: true, SilenceErrors: true}
	opts := testnet.Options{Logf: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	up := &cobra.Command{
		Use:   "up",
		Short: "Bring a lab up and wait for Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runUp(cmd.Context(), cmd.OutOrStdout(), opts)
		},
	}
	up.Flags().BoolVar(&opts.NoTor, "no-tor", false, "leave the Tor network out")
	up.Flags().BoolVar(&opts.SecondLAN, "second-lan", false, "add eth2 and client3")
	up.Flags().BoolVar(&opts.MasqueradeV6, "masquerade-v6", false, "masquerade IPv6 on the WAN instead of routing it")
	sweep := &cobra.Command{
		Use:   "sweep",
		Short: "Remove what killed labs left behind",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return testnet.SweepStale() },
	}
	root.AddCommand(up, sweep)
	return root
}

func runUp(ctx context.Context, out io.Writer, opts testnet.Options) error {
	lab, err := testnet.Start(ctx, opts)
	if err != nil {
		return err
	}
	describe(out, lab)
	<-ctx.Done()
	return lab.Close()
}

func describe(out io.Writer, lab *testnet.Lab) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "router\t%s\teth0 %s %s, eth1 %s %s\n", lab.Router.NetNS,
		testnet.WANRouter4, testnet.WANRouter6, testnet.LANRouter4, testnet.LANRouter6)
	for _, client := range []*testnet.Node{lab.Client1, lab.Client2, lab.Client3} {
		if client != nil {
			fmt.Fprintf(w, "%s\t%s\teth0 %s %s %s\n", client.Name, client.NetNS, client.IPv4, client.ULA, client.IPv6)
		}
	}
	fmt.Fprintf(w, "isp\t%s\tWAN capture: wan0\n", lab.ISP.NetNS)
	fmt.Fprintf(w, "internet\t%s\tweb %s %s, other %s %s, resolver %s %s\n", lab.Internet.NetNS,
		testnet.Web4, testnet.Web6, testnet.Other4, testnet.Other6, testnet.Resolver4, testnet.Resolver6)
	fmt.Fprintf(w, "names\t*.%s\tthe web server; other.%s\n", testnet.Zone, testnet.Zone)
	if lab.Tor != nil {
		fmt.Fprintf(w, "onion\t%s\tport %d\n", lab.Tor.Onion, testnet.PortHTTP)
		fmt.Fprintf(w, "torrc\t%s\tfor torbpf --torrc\n", lab.ClientTorrcFile())
	}
	fmt.Fprintf(w, "try\tnsenter --net=%s curl -s http://web.%s\n", lab.Client1.Path, testnet.Zone)
}
