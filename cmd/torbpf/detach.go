package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/router"
)

func newDetach() *cobra.Command {
	var all, client, asJSON bool
	cmd := &cobra.Command{
		Use:   "detach INTERFACE... [--client] | --all",
		Short: "Let these interfaces' traffic, or this machine's, out directly again",
		Long: `detach takes interfaces, and with --client this machine itself, off Tor. With the last, or with --all, everything of
torbpf goes: programs, rules, marks, processes; the host is as it was before.`,
		Args:              apartArgs,
		ValidArgsFunction: completeAttached,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0 || client) {
				return usageError{err: errors.New("name the interfaces, or --client, or --all"), command: cmd.CommandPath()}
			}
			return detach(cmd, args, client, asJSON)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all interfaces; also removes what a broken state left behind")
	cmd.Flags().BoolVar(&client, "client", false, "this machine's own traffic")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what is still on Tor as JSON")
	return cmd
}

// detach detaches the named interfaces and the client, or everything where neither is meant.
func detach(cmd *cobra.Command, names []string, client, asJSON bool) error {
	r, err := newRouter()
	if err != nil {
		return err
	}
	var remaining router.OnTor
	everything := len(names) == 0 && !client
	if everything {
		err = r.DetachAll(cmd.Context())
	} else {
		remaining, err = r.Detach(cmd.Context(), names, client)
	}
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if asJSON {
		return printJSON(out, map[string]any{"schema": 1, "interfaces": append([]string{}, remaining.Interfaces...), "client": remaining.Client})
	}
	if everything {
		fmt.Fprintln(out, "detached; traffic goes directly again")
		return nil
	}
	if client {
		names = append(names, "this machine")
	}
	fmt.Fprintf(out, "detached from %s; its traffic goes directly again\n", strings.Join(names, ", "))
	if still := remaining.String(); still != "" {
		fmt.Fprintf(out, "still on Tor: %s\n", still)
	}
	return nil
}
