package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// onLink is what no rule changes, since it stays on its link or in this machine.
var onLink = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "is each machine's own, and never on the wire"},
	{netip.MustParsePrefix("::1/128"), "is each machine's own, and never on the wire"},
	{netip.MustParsePrefix("169.254.0.0/16"), "stays on its link, whatever rules say"},
	{netip.MustParsePrefix("fe80::/10"), "stays on its link, whatever rules say"},
	{netip.MustParsePrefix("224.0.0.0/4"), "is of groups, whose packets stay on their link"},
	{netip.MustParsePrefix("ff00::/8"), "is of groups, whose packets stay on their link"},
}

// whoLooksUp stands in wideOpen for those who do.
const whoLooksUp = "NAMES"

// wideOpen are ports by which most of what somebody does goes out, or the names that he looks up.
var wideOpen = map[uint16]string{
	config.PortDNS: "what " + whoLooksUp + " is in clear then",
	80:             "that is all of the web without encryption",
	443:            "that is most of the web",
	853:            "what " + whoLooksUp + " goes past Tor then",
}

// cautions tells of rules that let out what their writer may not have meant, or that have no
// effect here.
func cautions(rules config.Rules, p *plan.Plan) []string {
	var out []string
	for _, r := range rules {
		if r.Policy != config.PolicyDirect {
			continue
		}
		judge := caution
		if r.Client {
			judge = clientCaution
		}
		if why := judge(r, p); why != "" {
			out = append(out, fmt.Sprintf("%s %s %s", r.Kind, r.Entry, why))
		}
	}
	return out
}

func caution(r config.Rule, p *plan.Plan) string {
	switch r.Kind {
	case config.KindDestination:
		return destinationCaution(r.Prefix, p)
	case config.KindSource:
		return sourceCaution(r.Prefix, p)
	case config.KindPort:
		return portCaution(r, "devices look up of whomever they like", "")
	case config.KindInterface:
		missing := func(e plan.Exit) bool { return e.Name == r.Interface && e.Index == 0 }
		if slices.ContainsFunc(p.Exits, missing) {
			return "is not there now, so the rule has no effect until it is"
		}
	}
	return ""
}

// portCaution is about a port of all destinations; flags go before --port.
func portCaution(r config.Rule, looksUp, flags string) string {
	why := wideOpen[r.Service.Port]
	if why == "" || r.Prefix.IsValid() {
		return ""
	}
	return fmt.Sprintf("is of all destinations: %s; for some only: %s--port %s@PREFIX", strings.Replace(why, whoLooksUp, looksUp, 1), flags, r.Service)
}

func destinationCaution(prefix netip.Prefix, p *plan.Plan) string {
	within := func(wide netip.Prefix) bool { return wide.IsValid() && config.PrefixCovers(wide, prefix) }
	for _, known := range onLink {
		if within(known.prefix) {
			return known.why + ": the rule has no effect"
		}
	}
	if within(p.Onion4) || within(p.Onion6) {
		return "is in the range of .onion names, which goes before any rule: it has no effect"
	}
	if prefix.IsSingleIP() && slices.Contains(p.LocalAddrs, prefix.Addr()) {
		return "is the router's own, and local anyway: the rule has no effect"
	}
	for _, l := range p.LANs {
		if slices.ContainsFunc(l.Prefixes, within) && p.LocalMode != config.LocalNone {
			return fmt.Sprintf("is behind %s, and local anyway: the rule has no effect", l.Name)
		}
	}
	return ""
}

func sourceCaution(prefix netip.Prefix, p *plan.Plan) string {
	if prefix.IsSingleIP() && slices.Contains(p.LocalAddrs, prefix.Addr()) {
		return "is the router's own, of which no device sends: the rule has no effect; see exclude add --client"
	}
	if len(p.LANs) > 0 && !slices.ContainsFunc(p.LANPrefixes(), prefix.Overlaps) {
		return "is behind no LAN now, so the rule has no effect"
	}
	return ""
}
