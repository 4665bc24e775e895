package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/plan"
)

func marks(f *Facts) []Finding {
	out := refused(f, plan.ErrMarkInUse)
	if f.Plan == nil {
		return out
	}
	for _, c := range f.Firewall.Wiping {
		out = append(out, warning(fmt.Sprintf("a rule of the chain %s sets the whole mark, torbpf's bits %#x as well: what it is about goes nowhere, unless it is an exempt mark", c, f.Plan.Mark.Mask()),
			"nft list chain "+c,
			fmt.Sprintf("have it set its own bits alone, such as meta mark set meta mark & %#x | 0x100", ^f.Plan.Mark.Mask()&^0x100)))
	}
	return out
}

func ipRules(f *Facts) []Finding {
	switch {
	case f.Plan == nil:
		return noPlan()
	case f.Kernel.Forward && !f.Plan.TProxy:
		return about("torbpf needs no ip rules here")
	}
	var out []Finding
	for _, r := range f.RulesAhead {
		out = append(out, warning(fmt.Sprintf("%s comes before torbpf's, from priority %d: what it routes is not kept back by those", r, plan.RulePriorityHandOver),
			fmt.Sprintf("give it a priority above %d", plan.RulePriority+100)))
	}
	return out
}

// xdpProgram is how internal/loader calls one that sees packets before any of tc's.
const xdpProgram = "an XDP program"

func programs(f *Facts) []Finding {
	if f.Plan == nil {
		return noPlan()
	}
	var out []Finding
	for _, program := range f.Programs {
		i := slices.IndexFunc(f.Plan.LANs, func(l plan.LAN) bool { return l.Index == program.Index })
		if i < 0 {
			continue // of an uplink, it sees what the programs have let go
		}
		name := f.Plan.LANs[i].Name
		if program.What == xdpProgram {
			out = append(out, warning(fmt.Sprintf("%s has %s of somebody else, which sees packets before torbpf's: what it sends on by itself goes around torbpf", name, program.What),
				fmt.Sprintf("ip link set dev %s xdp off", name), "or look whether it only drops packets and lets the others pass"))
			continue
		}
		out = append(out, note(fmt.Sprintf("%s has %s of somebody else; torbpf's goes before it, and hands on what is not refused", name, program.What)))
	}
	return out
}

// flowtable is about those of others: torbpf takes flows out of its own before they are to end.
func flowtable(f *Facts) []Finding {
	excluded := f.Config.Rules.OfLANs().OpensAny()
	verdict := Note
	if excluded {
		verdict = Warning
	}
	return found(verdict, Flowtables(f.Flowtables, excluded)...)
}

// Flowtables tells of those of others, which are named "TABLE NAME": torbpf's programs at the interfaces are before and
// after what a flowtable forwards, and everything else it passes by.
func Flowtables(names []string, excluded bool) []Advice {
	others := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return strings.HasPrefix(name, plan.Table+" ") })
	if len(others) == 0 {
		return nil
	}
	what := "but nothing is excluded, so no flow of a LAN is forwarded"
	if excluded {
		what = "and forwards what is excluded past all rules and the guard of what is forwarded: torbpf's programs at the interfaces alone judge it, and with offload to hardware not these either"
	}
	return []Advice{Advise(fmt.Sprintf("nftables offloads flows (flowtable %s), %s", strings.Join(others, ", "), what),
		"nft -a list ruleset, and delete the rule with `flow add`", "OpenWrt: uci set firewall.@defaults[0].flow_offloading=0; uci commit firewall; service firewall reload",
		`or let torbpf have one of its own, which ends with an exclusion: fastpath = "flowtable"`)}
}

// WGQuick tells what the firewall does that wg-quick has for tunnels of these names, through which everything is
// routed: to what this machine sends where that is on Tor, and to what devices send where any of it is excluded.
func WGQuick(names []string, client, excluded bool) []Advice {
	var out []Advice
	for _, name := range names {
		fix := fmt.Sprintf("it has none where [Interface] of %s.conf says Table (docs/CLIENT.md, beside a VPN)", name)
		if client {
			out = append(out, Advise(fmt.Sprintf("wg-quick's firewall (table wg-quick-%s) drops what comes to an address of %s by another interface, and with it by the loopback device what Tor and the sentry answer, names above all", name, name), fix))
		}
		if excluded {
			out = append(out, Advise(fmt.Sprintf("wg-quick's firewall (table wg-quick-%s) sets the whole mark of UDP, torbpf's bits as well, so UDP that is excluded goes nowhere", name), fix))
		}
	}
	return out
}

func firewall(f *Facts) []Finding {
	if f.Plan == nil {
		return noPlan()
	}
	var out []Finding
	for _, s := range f.Firewall.Delivered {
		what := strings.Join(s.What, ", ")
		if s.Perhaps {
			out = append(out, note(fmt.Sprintf("whether the chain %s lets in what is diverted to Tor (from %s: %s) cannot be told from its rules: attach tries it with a packet of each kind", s.Chain, s.LAN, what)))
			continue
		}
		out = append(out, problem(fmt.Sprintf("the chain %s drops what is diverted to Tor (from %s: %s)", s.Chain, s.LAN, what), s.Rules...))
	}
	if f.Firewall.Legacy {
		out = append(out, note("iptables-legacy has rules, which are not seen from here: attach tries with a packet of each kind whether they let in what is diverted to Tor", "iptables-legacy -S INPUT"))
	}
	return out
}

func firewallForward(f *Facts) []Finding {
	switch {
	case f.Plan == nil:
		return noPlan()
	case !f.Config.Rules.OfLANs().OpensAny():
		return about("nothing is excluded, so nothing of a LAN is forwarded")
	}
	var out []Finding
	for _, s := range f.Firewall.Forwarded {
		what := strings.Join(s.What, ", ")
		if s.Perhaps {
			out = append(out, note(fmt.Sprintf("whether the chain %s lets pass what is excluded (%s) cannot be told from its rules", s.Chain, what)))
			continue
		}
		by := ""
		if f.Firewall.Docker {
			by = ", as Docker sets it up"
		}
		out = append(out, warning(fmt.Sprintf("the chain %s%s drops what is excluded (%s)", s.Chain, by, what), s.Rules...))
	}
	return out
}

func fastPath(f *Facts) []Finding {
	if f.Plan == nil || !f.Plan.Fast && !f.Plan.Flowtable {
		return about("the fast path is off")
	}
	what := "fast path"
	if f.Plan.Flowtable {
		what = "flowtable"
	}
	var out []Finding
	for _, why := range f.FastOff {
		out = append(out, note("no "+what+", so what is excluded goes the slow way: "+why))
	}
	return out
}
