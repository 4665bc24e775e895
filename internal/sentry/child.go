package sentry

import (
	"context"
	"log/slog"
	"os"

	"github.com/torbpf/torbpf/internal/confined"
)

// The descriptors that the sentry is started with, which its Config names.
const (
	childGates  = confined.FirstFile + iota // the BPF array
	childSlots                              // the BPF array of answers for excluded names
	childAskers                             // the BPF array of who asks for them
)

// maxOpenFiles is more than all that the limits allow together.
const maxOpenFiles = 1024

// RunChild is the sentry's whole life in a process started by Spawn: it takes
// what Spawn left it, reports whether it could begin, and runs until ctx ends.
// The log goes to standard error. dialer makes the Dialer for a Config.
func RunChild(ctx context.Context, dialer func(Config) Dialer) error {
	return confined.RunChild(role, maxOpenFiles, func(cfg Config, ready func() error) error {
		return Run(ctx, cfg, dialer(cfg), Options{
			Log:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
			Ready: ready,
		})
	})
}
