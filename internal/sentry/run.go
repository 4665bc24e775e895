package sentry

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"
)

// Options are what Run may be told beside its Config.
type Options struct {
	Watch WatchOptions
	Log   *slog.Logger
	Ready func() error // called once when all listens; an error ends Run
}

// Run watches tor and answers DNS until ctx ends, which is no error. The gate is
// left as it is.
func Run(ctx context.Context, cfg Config, dial Dialer, opts Options) error {
	return run(ctx, cfg, dial, opts, defaultLimits())
}

func run(ctx context.Context, cfg Config, dial Dialer, opts Options, lim limits) (err error) {
	if err := cfg.validate(); err != nil {
		return err
	}
	gate, err := OpenGate(cfg.GateFD, cfg.Instance)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := gate.Close(); err == nil {
			err = closeErr
		}
	}()
	server, err := newServer(ctx, cfg, gate, lim, opts.Log)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.serve(ctx) })
	g.Go(func() error {
		Watch(ctx, dial, gate, opts.Watch, opts.Log)
		return nil
	})
	if opts.Ready != nil {
		g.Go(opts.Ready)
	}
	return g.Wait()
}
