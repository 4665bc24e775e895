package main

import (
	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/web"
)

// newWeb is the process that `torbpf run` starts; nobody types it.
func newWeb() *cobra.Command {
	return &cobra.Command{
		Use:    "web",
		Short:  "Serve metrics by TCP (started by torbpf run)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return web.RunChild(cmd.Context())
		},
	}
}
