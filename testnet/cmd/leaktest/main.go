// Command leaktest inflicts faults on torbpf in a lab while two clients keep trying
// everything, and prints what got out.
//
//	leaktest ./torbpf                  the table of faults
//	leaktest --fault nft ./torbpf      those whose names contain "nft"
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
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
			series := &leaktest.Series{Program: program, Recovery: leaktest.AttachAgain{}}
			ok, err := leaktest.RunTable(cmd.Context(), cmd.OutOrStdout(), series, containing)
			if err == nil && !ok {
				err = fmt.Errorf("not all is as it should be")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&containing, "fault", "", "only faults whose names contain this")
	return cmd
}
