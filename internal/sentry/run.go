package sentry

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"
)

// Options are what Run may be told beside its Config.
type Options struct {
	Watch  WatchOptions
	Log    *slog.Logger
	Ready  func() error // called once when all listens; an error ends Run
	Follow Follow       // listens to a tor; nil: which device uses which circuit is not remembered
}

// Run watches the tors and answers DNS until ctx ends, which is no error. The gate is
// left as it is.
func Run(ctx context.Context, cfg Config, dialer func(control string) Dialer, opts Options) error {
	return run(ctx, cfg, dialer, opts, defaultLimits())
}

func run(ctx context.Context, cfg Config, dialer func(control string) Dialer, opts Options, lim limits) (err error) {
	if err := cfg.validate(); err != nil {
		return err
	}
	gates, err := openGates(cfg)
	defer func() {
		for _, gate := range gates {
			if closeErr := gate.Close(); err == nil {
				err = closeErr
			}
		}
	}()
	if err != nil {
		return err
	}
	questions, err := openMemory(cfg, opts.Follow)
	if err != nil {
		return err
	}
	server, err := newServer(ctx, cfg, gates, lim, opts.Log)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.serve(ctx) })
	for i, t := range cfg.Tors {
		log := opts.Log
		if len(cfg.Tors) > 1 {
			log = log.With("tor", i)
		}
		g.Go(func() error {
			Watch(ctx, dialer(t.Control), gates[i], opts.Watch, log)
			return nil
		})
	}
	if questions != nil {
		m := newMemories(cfg.Tors, opts.Follow, server.source, opts.Log)
		g.Go(func() error { return m.serve(ctx, questions) })
		for i := range cfg.Tors {
			g.Go(func() error {
				m.keep(ctx, i)
				return nil
			})
		}
	}
	if opts.Ready != nil {
		g.Go(opts.Ready)
	}
	return g.Wait()
}
