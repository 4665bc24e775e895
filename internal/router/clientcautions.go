package router

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
)

// ownLoopback is what of onLink this machine never asks a rule about.
var ownLoopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// clientCaution is caution for what this machine itself sends.
func clientCaution(r config.Rule, p *plan.Plan) string {
	if p.Client == nil || !p.Client.All {
		return "has no effect until this machine is on Tor: torbpf attach --client"
	}
	switch r.Kind {
	case config.KindDestination:
		return ownDestinationCaution(r.Prefix, p)
	case config.KindPort:
		return portCaution(r, "this machine looks up", "--client ")
	case config.KindInterface:
		return ownExitCaution(r.Interface, p.Client)
	case config.KindCgroup:
		if !p.Client.Identifies(r.Entry) {
			return "is not there now, so the rule has no effect until it is: systemd-cgls, or /proc/PID/cgroup, tells the paths"
		}
	}
	return ""
}

func ownDestinationCaution(prefix netip.Prefix, p *plan.Plan) string {
	within := func(wide netip.Prefix) bool { return wide.IsValid() && config.PrefixCovers(wide, prefix) }
	switch {
	case slices.ContainsFunc(ownLoopback, within):
		return "never leaves this machine: the rule has no effect"
	case within(p.Onion4) || within(p.Onion6):
		return "is in the range of .onion names, which goes before any rule: it has no effect"
	}
	return ""
}

func ownExitCaution(name string, c *plan.Client) string {
	i := slices.IndexFunc(c.Exits, func(e plan.Exit) bool { return e.Name == name })
	switch {
	case name == "lo":
		return "is what stays on this machine, which is left alone: the rule has no effect"
	case i >= 0 && c.Exits[i].Index == 0:
		return "is not there now, so the rule has no effect until it is"
	}
	return ""
}

// senderWarnings tells of rules by user or program that nobody is meant by. A control group
// may well be there only while its service runs.
func senderWarnings(c *plan.Client) []string {
	if c == nil {
		return nil
	}
	var out []string
	for _, r := range c.Rules {
		why := ""
		switch {
		case r.Kind == config.KindProgram:
			why = host.NoProgram(r.Program)
		case r.Kind == config.KindUser && !c.Identifies(r.Entry):
			why = "has no account here, so the rule has no effect until it has: getent passwd lists them"
		}
		if why != "" {
			out = append(out, fmt.Sprintf("%s %s %s", r.Kind, r.Entry, why))
		}
	}
	return out
}
