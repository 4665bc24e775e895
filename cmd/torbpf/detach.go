package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newDetach() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "detach INTERFACE... | --all",
		Short: "Let these interfaces' traffic out directly again",
		Long: `detach takes interfaces off Tor. With the last one, or with --all, everything of
torbpf goes: programs, rules, marks, processes; the host is as it was before.`,
		ValidArgsFunction: completeInterfaces,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usageError{err: errors.New("name the interfaces, or --all"), command: cmd.CommandPath()}
			}
			return detach(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all interfaces; also removes what a broken state left behind")
	return cmd
}

// detach detaches the named interfaces, or everything where none is named.
func detach(cmd *cobra.Command, names []string) error {
	r, err := newRouter()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if len(names) == 0 {
		if err := r.DetachAll(cmd.Context()); err != nil {
			return err
		}
		fmt.Fprintln(out, "detached; traffic goes directly again")
		return nil
	}
	remaining, err := r.Detach(cmd.Context(), names)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "detached from %s; its traffic goes directly again\n", strings.Join(names, ", "))
	if len(remaining) > 0 {
		fmt.Fprintf(out, "still on Tor: %s\n", strings.Join(remaining, ", "))
	}
	return nil
}
