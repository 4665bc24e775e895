// Command torbpf puts the devices behind a router's LAN interfaces on Tor.
// Each command has a file of its own and no logic beyond flags and printing;
// internal/router does the work. Nouns (status, exclude list) read, verbs
// change and may be repeated; only detaching or deleting what is not there is
// an error. Results go to stdout, progress to stderr.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker; see the Makefile.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "torbpf",
		Short: "Put every device behind a network interface on Tor",
		Long: `torbpf puts every device behind a router's LAN interfaces on Tor: an eBPF
program classifies each packet where it arrives, nftables redirects what is
Tor's, and everything that Tor cannot carry is refused, never let out.

  sudo torbpf attach eth1        every device behind eth1 is on Tor
  sudo torbpf status             what happens to their traffic, and why
  sudo torbpf exclude add 104.16.0.0/13
                                 let this destination be reached directly
  sudo torbpf detach --all       the host is as it was before`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	grouped(root)
	root.SetFlagErrorFunc(flagError)
	strictHelp(root)
	fitHelp(root)
	return root
}
