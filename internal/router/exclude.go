package router

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
)

// ExcludeOptions say how exclusions are changed.
type ExcludeOptions struct {
	Force bool // allow what would let everything out
	// Forwarding turns the kernel's forwarding on where it is off: Tor needs
	// none, but what goes direct does. Detach turns it off again.
	Forwarding bool
}

// Exclude adds entries to what goes direct, or removes them, all at once: one
// entry that cannot be taken leaves everything as it was. Connections that were
// direct and may be no longer are cut.
func (r *Router) Exclude(ctx context.Context, remove bool, entries []config.Entry, o ExcludeOptions) ([]config.Change, []string, error) {
	if err := requireRoot(); err != nil {
		return nil, nil, err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	before, err := r.attached()
	if err != nil {
		return nil, nil, errors.Join(err, r.forgetIfUnused(before))
	}
	s := before.clone()
	changes, err := edit(&s.Config.Exclusions, remove, entries)
	if err != nil {
		return changes, nil, err
	}
	// What was insisted on holds until it is taken back, and for nothing else.
	s.Config.Everything = (s.Config.Everything || o.Force) && s.Config.Exclusions.Everything()
	result, err := r.bring(ctx, before, s, false)
	if err != nil {
		return nil, nil, err
	}
	if !remove && o.Forwarding {
		if err := r.enableForwarding(s, result.Plan); err != nil {
			return changes, nil, fmt.Errorf("the exclusions are in force, but forwarding is not: %w", err)
		}
	}
	if remove {
		return changes, nil, nil
	}
	return changes, r.warnings(s, result.Plan), nil
}

func edit(e *config.Exclusions, remove bool, entries []config.Entry) ([]config.Change, error) {
	var changes []config.Change
	for _, entry := range entries {
		if !remove {
			changes = append(changes, e.Add(entry))
			continue
		}
		c := e.Remove(entry)
		if c.Outcome == config.Absent {
			return nil, fmt.Errorf("nothing was changed: %s", c)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// Exclusions returns what goes direct.
func (r *Router) Exclusions() (config.Exclusions, error) {
	if err := requireRoot(); err != nil {
		return config.Exclusions{}, err
	}
	s, err := r.attached()
	if err != nil {
		return config.Exclusions{}, err
	}
	return s.Config.Exclusions, nil
}

// enableForwarding turns forwarding on. Each old value is saved before the
// setting changes, so detach can restore it whatever happens in between.
func (r *Router) enableForwarding(s *State, p *plan.Plan) error {
	var uplinks []string
	for _, u := range p.Uplinks {
		uplinks = append(uplinks, u.Name)
	}
	return host.EnableForwarding(uplinks, func(name, old string) error {
		if s.Sysctls == nil {
			s.Sysctls = make(map[string]string)
		}
		if _, recorded := s.Sysctls[name]; !recorded {
			s.Sysctls[name] = old
		}
		return r.saveState(s)
	})
}

// forwardingWarnings tells of exclusions that lead nowhere because the kernel
// does not forward.
func forwardingWarnings(s *State) []string {
	e := s.Config.Exclusions
	if len(e.Destinations)+len(e.Sources)+len(e.Marks) == 0 {
		return nil
	}
	v4, v6, err := host.ForwardingEnabled()
	if err != nil {
		return []string{fmt.Sprintf("whether the kernel forwards could not be read: %v", err)}
	}
	var off []string
	if !v4 {
		off = append(off, "IPv4 (net.ipv4.ip_forward=0)")
	}
	if !v6 && mentionsIPv6(e) {
		off = append(off, "IPv6 (net.ipv6.conf.all.forwarding=0)")
	}
	if len(off) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("this kernel does not forward %s, so what is excluded goes nowhere; turn it on yourself, or let torbpf do it until detach: --enable-forwarding", strings.Join(off, " and "))}
}

func mentionsIPv6(e config.Exclusions) bool {
	for _, p := range e.Destinations {
		if p.Addr().Is6() {
			return true
		}
	}
	for _, p := range e.Sources {
		if p.Addr().Is6() {
			return true
		}
	}
	return len(e.Marks) > 0
}

// joinNames lists names in words.
func joinNames(names []string) string { return strings.Join(names, ", ") }

// warnings are what a user should know after an attach that went well.
func (r *Router) warnings(s *State, p *plan.Plan) []string {
	var w []string
	switch {
	case len(p.Uplinks) == 0 && s.Config.Force:
		w = append(w, "no interface leads outside but those that were forced to be LANs, so no uplink is guarded: name one with --uplink")
	case len(p.Uplinks) == 0:
		w = append(w, "no interface has a default route now: attach again once there is an uplink, so that its guard can be put in place")
	}
	return append(w, forwardingWarnings(s)...)
}

// timeWarnings tells what devices miss where the router has no time for them.
func timeWarnings(p *plan.Plan) []string {
	if p.TimeServer {
		return nil
	}
	return []string{"no time server runs here, so devices that ask for the time by NTP are refused, and a wrong clock breaks TLS: apt install chrony, and write `allow` into /etc/chrony/chrony.conf"}
}
