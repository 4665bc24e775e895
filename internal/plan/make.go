package plan

import (
	"fmt"

	"github.com/torbpf/torbpf/internal/config"
)

// Make plans. It returns a *Refusal for what the host does not allow, and an
// error that wraps config.ErrInvalid for what no host would.
//
// The same configuration and host give the same plan, and both may be used
// again afterwards: nothing of them is changed or kept.
func Make(cfg config.Config, h Host) (*Plan, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("check configuration: %w", err)
	}
	cfg.Rules = cfg.Rules.Normalized()
	ofClient := withoutOurs(cfg.Rules.OfClient(), Mark{Shift: cfg.MarkShift})
	chosen, err := chooseLANs(cfg, h)
	if err != nil {
		return nil, err
	}
	if err := refuseMarkInUse(cfg, h); err != nil {
		return nil, err
	}
	p := &Plan{
		Mark:       Mark{Shift: cfg.MarkShift},
		LocalAddrs: localAddrs(h),
		Broadcasts: broadcasts(h),
		Ports:      Ports{Trans: cfg.Tor.TransPort, DNS: cfg.Tor.DNSPort, Resolver: cfg.Tor.ResolverPort},
		Instances:  cfg.Tor.Instances.On(h.CPUs),
		TProxy:     cfg.Tor.TCPMode == config.TCPTProxy,
		LocalMode:  cfg.Local,
		Inbound:    cfg.Inbound,
		TimeServer: h.TimeServer,
		Fast:       cfg.FastPath == config.FastPathAuto,
		Flowtable:  cfg.FastPath == config.FastPathFlowtable,
	}
	p.Rules = withoutOurs(cfg.Rules.OfLANs(), p.Mark)
	p.Exits, p.Widest = exits(h, h.Ways, p.Rules, cfg.Everything)
	p.Resolver = cfg.Resolver
	p.Client = client(cfg, h, ofClient)
	if p.TProxy && p.Client != nil {
		return nil, &config.FieldError{Field: "tor.tcp_mode", Problem: fmt.Sprintf("%s is for what LANs send alone, and the same tor cannot take what torbpf exec runs on this machine: choose %s (--tcp-mode)", config.TCPTProxy, config.TCPRedirect)}
	}
	p.Waiting, p.WaitingFor, p.Unfit, p.Patterns = chosen.waiting, chosen.there, chosen.unfit, chosen.patterns
	for _, l := range chosen.links {
		behind := lan(h, l)
		behind.Early, behind.NotEarly = early(cfg, l)
		p.LANs = append(p.LANs, behind)
	}
	if p.Uplinks, err = uplinks(cfg, h, chosen.links); err != nil {
		return nil, err
	}
	for i := range p.Uplinks {
		p.Uplinks[i].Frames = frames(cfg, h, p.Uplinks[i])
	}
	p.Outside = outside(h, p.Uplinks)
	p.Local = localSubnets(h, p.Uplinks, p.LANs)
	if p.Onion4, p.Onion6, err = chooseOnion(cfg, h, p.Instances); err != nil {
		return nil, err
	}
	if p.Client != nil {
		p.Client.Shortcut = p.Client.shortcut(h.TorGroup, p.Onion4, p.Onion6)
	}
	return p, nil
}
