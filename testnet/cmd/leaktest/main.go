// Command leaktest inflicts faults on torbpf in a lab while two clients keep trying
// everything, and prints what got out.
//
//	leaktest ./torbpf                  the table of faults
//	leaktest --fault nft ./torbpf      those whose names contain "nft"
//	leaktest --with "--tcp-mode tproxy" ./torbpf     all of it with TCP handed to tor's socket
//	leaktest --soak 30m ./torbpf       faults at random, and what grows
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/leaktest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "leaktest:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var containing string
	var soak leaktest.Soak
	var byHand bool
	var with string
	cmd := &cobra.Command{
		Use:           "leaktest PATH-OF-TORBPF",
		Short:         "Faults against torbpf in a lab, and what leaks",
		Args:          cobra.ExactArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			program, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			series := &leaktest.Series{Program: program, Recovery: &leaktest.Daemon{}, Args: strings.Fields(with)}
			if byHand {
				series.Recovery = leaktest.AttachAgain{}
			}
			var ok bool
			if soak.Out = cmd.OutOrStdout(); soak.Duration > 0 {
				series.Recovery = &leaktest.Daemon{Always: true}
				ok, err = soak.Run(cmd.Context(), series)
			} else {
				ok, err = leaktest.RunTable(cmd.Context(), cmd.OutOrStdout(), series, containing)
			}
			if err == nil && !ok {
				err = errors.New("not all is as it should be")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&containing, "fault", "", "only faults whose names contain this")
	cmd.Flags().BoolVar(&byHand, "by-hand", false, "recover by attaching again instead of by torbpf run")
	cmd.Flags().StringVar(&with, "with", "", "flags of every attach to a LAN in all of the table")
	cmd.Flags().DurationVar(&soak.Duration, "soak", 0, "faults at random for this long, instead of the table")
	cmd.Flags().Uint64Var(&soak.Seed, "seed", rand.Uint64N(1<<32), "of the soak's choice of faults")
	cmd.MarkFlagsMutuallyExclusive("fault", "soak")
	return cmd
}
