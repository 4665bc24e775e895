package router

import (
	"fmt"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
)

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

// forwardingAdvice tells of exclusions that lead nowhere because the kernel
// does not forward.
func forwardingAdvice(s *State) []doctor.Advice {
	rules := s.Config.Rules.OfLANs()
	if !rules.OpensAny() {
		return nil
	}
	v4, v6, err := host.ForwardingEnabled()
	if err != nil {
		return []doctor.Advice{doctor.Advise(fmt.Sprintf("whether the kernel forwards could not be read: %v", err))}
	}
	var off []string
	if !v4 {
		off = append(off, "IPv4 (net.ipv4.ip_forward=0)")
	}
	if !v6 && mentionsIPv6(rules) {
		off = append(off, "IPv6 (net.ipv6.conf.all.forwarding=0)")
	}
	if len(off) == 0 {
		return nil
	}
	return []doctor.Advice{doctor.Advise(fmt.Sprintf("this kernel does not forward %s, so what is excluded goes nowhere", strings.Join(off, " and ")),
		"turn it on yourself, or let torbpf do it until detach with --enable-forwarding of torbpf exclude add")}
}

// mentionsIPv6 says so of rules that may let IPv6 out.
func mentionsIPv6(rules config.Rules) bool {
	return slices.ContainsFunc(rules, func(r config.Rule) bool {
		return r.Policy == config.PolicyDirect && (!r.Prefix.IsValid() || r.Prefix.Addr().Is6())
	})
}

// joinNames lists names in words.
func joinNames(names []string) string { return strings.Join(names, ", ") }

// warnings are what a user should know after an attach that went well.
func (r *Router) warnings(s *State, p *plan.Plan) []string {
	return doctor.Strings(slices.Concat(uplinkAdvice(s, p), wideAdvice(p), handOverAdvice(p), exitAdvice(s, p), besideAdvice(p), clientAdvice(p, s.Config.Everything), wgQuickAdvice(s, p), flowtableAdvice(s, p), pageAdvice(s, p), forwardingAdvice(s)))
}

// uplinkAdvice is for where no uplink is guarded.
func uplinkAdvice(s *State, p *plan.Plan) []doctor.Advice {
	switch {
	case len(p.Uplinks) > 0:
		return nil
	case s.Config.Force:
		return []doctor.Advice{doctor.Advise("no interface leads outside but those that were forced to be LANs, so no uplink is guarded", "name one with --uplink")}
	}
	return []doctor.Advice{doctor.Advise("no interface has a default route now", "attach again once there is an uplink, so that its guard can be put in place")}
}

// wideAdvice is for exclusions of hardly less than everything.
func wideAdvice(p *plan.Plan) []doctor.Advice {
	wide := p.AllRules().Widest()
	if len(wide) == 0 {
		return nil
	}
	return []doctor.Advice{doctor.Advise(fmt.Sprintf("%s %s is excluded, so hardly anything is Tor's", wide[0].Kind, wide.Together()))}
}

// exitAdvice tells of excluded interfaces that everything is routed to: nothing goes by
// them, or about everything where somebody insists.
func exitAdvice(s *State, p *plan.Plan) []doctor.Advice {
	var w []doctor.Advice
	for _, wide := range p.Widest {
		w = append(w, wideExit(widestWords(wide), wide.Name, s.Config.Everything, "--interface"))
	}
	return w
}

func wideExit(words, name string, insisted bool, flags string) doctor.Advice {
	if insisted {
		return doctor.Advise(words + " and is excluded, so hardly anything is Tor's")
	}
	return doctor.Advise(words+", so hardly anything would be Tor's, and nothing goes by it", fmt.Sprintf("insist with torbpf exclude add %s %s --force", flags, name))
}

// timeAdvice tells what devices miss where the router has no time for them, of LANs that
// were not there before.
func timeAdvice(before *State, p *plan.Plan) []doctor.Advice {
	fresh := func(l plan.LAN) bool { return before == nil || before.Links[l.Name] != l.Index }
	if p.TimeServer || !slices.ContainsFunc(p.LANs, fresh) {
		return nil
	}
	return []doctor.Advice{doctor.NoTimeServer}
}
