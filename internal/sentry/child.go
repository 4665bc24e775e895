package sentry

import (
	"context"
	"log/slog"
	"os"

	"github.com/torbpf/torbpf/internal/confined"
)

// childGates is the first descriptor that the sentry is started with; its Config names all.
const childGates = confined.FirstFile

// maxOpenFiles is more than all that the limits allow together.
const maxOpenFiles = 1024

// RunChild is the sentry's whole life in a process started by Spawn: it takes
// what Spawn left it, reports whether it could begin, and runs until ctx ends.
// The log goes to standard error. dialer makes the Dialer for a control address.
func RunChild(ctx context.Context, dialer func(control string) Dialer, follow Follow) error {
	return confined.RunChild(role, maxOpenFiles, func(cfg Config, ready func() error) error {
		return Run(ctx, cfg, dialer, Options{
			Log:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
			Ready:  ready,
			Follow: follow,
		})
	})
}
