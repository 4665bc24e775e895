package main

import (
	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/proxy"
)

// newProxy is the process that attach leaves running; nobody types it.
func newProxy() *cobra.Command {
	return &cobra.Command{
		Use:    "proxy",
		Short:  "Take what is to go around Tor, on loopback (started by attach)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return proxy.RunChild(cmd.Context())
		},
	}
}
