package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/circuits"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/tor"
)

// newSentry is the process that attach leaves running; nobody types it.
func newSentry() *cobra.Command {
	return &cobra.Command{
		Use:    "sentry",
		Short:  "Watch tor and answer DNS that it cannot (started by attach)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return sentry.RunChild(cmd.Context(), dialTor, followTor)
		},
	}
}

// watchedTor is tor's control port as the sentry sees it.
type watchedTor struct{ *tor.Control }

func (w watchedTor) Bootstrap(ctx context.Context) (int, string, error) {
	p, err := w.Control.Bootstrap(ctx)
	return p.Percent, p.Summary, err
}

func dialTor(control string) sentry.Dialer {
	return func(ctx context.Context) (sentry.Tor, io.Closer, error) {
		c, err := tor.Dial(ctx, control)
		if err != nil {
			return nil, nil, err
		}
		return watchedTor{c}, c, nil
	}
}

func followTor(ctx context.Context, control string, before circuits.Memory) (sentry.Listener, error) {
	f, err := tor.Follow(ctx, control, before)
	if err != nil {
		return nil, err
	}
	return f, nil
}
