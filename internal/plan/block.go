package plan

import "github.com/torbpf/torbpf/internal/config"

// Block plans for keeping all of a configuration's interfaces closed, by their
// names alone: it asks nothing of the host, so it holds before the interfaces are
// there and when no other plan can be made.
func Block(cfg config.Config) *Plan {
	p := &Plan{
		Mark:      Mark{Shift: cfg.MarkShift},
		Ports:     Ports{Trans: cfg.Tor.TransPort, DNS: cfg.Tor.DNSPort, Resolver: cfg.Tor.ResolverPort},
		Instances: cfg.Tor.Instances.Most(), // some may run yet
		LocalMode: config.LocalNone,
	}
	if cfg.Client.Enable {
		p.Client = &Client{All: true}
	}
	for _, name := range cfg.Interfaces {
		if config.IsPattern(name) {
			p.Patterns = append(p.Patterns, name)
		} else {
			p.Waiting = append(p.Waiting, name)
		}
	}
	return p
}
