package router

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/tor"
)

// askTor finds out about the tor that is used, or would be, and what it says of the time.
func (g *gathering) askTor(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	t := &g.facts.Tor
	t.Mode, t.Now, t.Built = g.state.Config.Tor.Mode, time.Now(), built()
	if t.Mode == config.TorSystem {
		g.askSystemTor(ctx, t)
	} else {
		t.Version, t.Missing = tor.Installed(ctx, g.state.Config.Tor.Binary)
	}
	if g.inForce || t.Mode == config.TorSystem {
		g.askForTime(ctx, t)
	}
	if !t.ValidAfter.IsZero() || t.Mode == config.TorSystem {
		return
	}
	kept, err := tor.CachedConsensus(filepath.Join(g.data, torName(0)))
	if err != nil {
		g.unread(g.explained(err), doctor.CheckClock)
		return
	}
	t.ValidAfter, t.ValidUntil, t.Cached = kept.ValidAfter, kept.ValidUntil, true
}

// askSystemTor judges the user's own as attach would.
func (g *gathering) askSystemTor(ctx context.Context, t *doctor.Tor) {
	cfg := g.state.Config.Tor
	o := tor.Options{Ports: plan.Ports{Trans: cfg.TransPort, DNS: cfg.DNSPort, Resolver: cfg.ResolverPort}, TProxy: cfg.TCPMode == config.TCPTProxy}
	if p := g.facts.Plan; p != nil {
		o.AllowFrom = slices.Concat(p.LANPrefixes(), loopback)
	}
	found, err := tor.System(ctx, cfg.Control, o)
	t.Missing = err
	if found != nil {
		t.Version = found.Version
	}
}

// askForTime asks the first of the tors; one that does not answer is told of elsewhere.
func (g *gathering) askForTime(ctx context.Context, t *doctor.Tor) {
	address := g.controlAddresses(g.state)[0]
	if address == "" {
		address = tor.SystemSockets[0]
	}
	c, err := tor.Dial(ctx, address)
	if err != nil {
		return
	}
	defer c.Close()
	if kept, err := c.Consensus(ctx); err == nil {
		t.ValidAfter, t.ValidUntil = kept.ValidAfter, kept.ValidUntil
	}
	if progress, err := c.Bootstrap(ctx); err == nil && progress.ClockSkew {
		t.Skew = progress.Warning
	}
}
