package router

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// torAtLast are the reasons of what no rule lets out: one may be why.
var torAtLast = map[abi.Reason]bool{
	abi.ReasonTCP: true, abi.ReasonUDP: true, abi.ReasonQUIC: true, abi.ReasonNTP: true, abi.ReasonICMP: true,
	abi.ReasonProtocol: true, abi.ReasonLocalSubnet: true,
}

// decidedBy is the rule of the user's that decided; nil for none.
func (x *ownExplained) decidedBy() *config.Rule {
	byTor := x.class == abi.VerdictTor
	switch {
	case x.reason == abi.ReasonDirectSource, byTor && (torAtLast[x.reason] || torsDNS[x.reason]):
		return x.senderRule()
	case x.fate.Rule != nil:
		return x.fate.Rule
	case x.reason == abi.ReasonDirectDestination:
		return x.destinationRule()
	case torAtLast[x.reason] && !byTor:
		if r := x.destinationRule(); r != nil && r.Policy == config.PolicyTor {
			return r
		}
	}
	return nil
}

// destinationRule is the most specific rule for the destination that holds.
func (x *ownExplained) destinationRule() *config.Rule {
	var found *config.Rule
	for _, r := range x.plan.Client.Rules.Of(config.KindDestination) {
		holds := r.Until.IsZero() || r.Until.After(time.Now())
		if holds && r.Prefix.Contains(x.To) && (found == nil || r.Prefix.Bits() >= found.Prefix.Bits()) {
			found = &r
		}
	}
	return found
}

// decided says in words what decided.
func (x *ownExplained) decided() string {
	switch {
	case x.rule != nil:
		return ruleWords(*x.rule)
	case x.reason == abi.ReasonDirectSource && x.by.Tor:
		return "it is tor itself, which carries what others send"
	case x.class == abi.VerdictDirect && x.reason == abi.ReasonDirectSource:
		return "it is torbpf's own, or what torbpf exec --direct runs"
	case x.class == abi.VerdictTor && x.by.Rule < 0:
		return "torbpf exec --tor runs it, and no rule lets that out"
	}
	switch x.reason {
	case abi.ReasonRouterAddress:
		return fmt.Sprintf("%s is on this machine", x.To)
	case abi.ReasonOnionTCP, abi.ReasonOnionDNS, abi.ReasonOnionProtocol:
		onion := x.plan.Onion4
		if x.To.Is6() {
			onion = x.plan.Onion6
		}
		return fmt.Sprintf("%s is in the .onion range %s", x.To, onion)
	case abi.ReasonLocalSubnet:
		return fmt.Sprintf("%s is in the subnet %s of %s", x.To, x.subnet(), x.way())
	case abi.ReasonReservedOpen:
		return "no rule is about it, and the local mode is \"reserved\""
	case abi.ReasonBlockedSource, abi.ReasonClientGuard:
		return x.fate.Comment
	}
	return "no rule is about it"
}

func (x *ownExplained) subnet() netip.Prefix {
	for _, s := range append(x.plan.Client.Local, x.plan.Local...) {
		if s.Prefix.Contains(x.To) {
			return s.Prefix
		}
	}
	return netip.Prefix{}
}

func (x *ownExplained) way() string { return linkName(x.facts, x.hop.Index) }

// then says how it goes on.
func (x *ownExplained) then() []string {
	if _, reason := x.now(); reason != x.reason {
		until := "the kernel resets it: TransPort takes none; what began before goes on"
		if x.verdict == abi.VerdictResolver {
			until = "the sentry gets it all the same, and answers that it cannot say"
		}
		return []string{until, "once Tor is ready: " + x.goesOn()}
	}
	return []string{x.goesOn()}
}

func (x *ownExplained) goesOn() string {
	ports := x.plan.Ports
	switch x.verdict {
	case abi.VerdictTor, abi.VerdictOnion:
		if x.short {
			return fmt.Sprintf("connect() itself leads it to tor's TransPort, %d of this machine, without any NAT", ports.Trans)
		}
		return fmt.Sprintf("nftables redirects it to tor's TransPort, %d of this machine", ports.Trans)
	case abi.VerdictResolver:
		return fmt.Sprintf("nftables redirects it to the sentry, port %d of this machine, which answers through Tor, whoever was asked", ports.Resolver)
	case abi.VerdictLocal:
		if x.reason == abi.ReasonRouterAddress {
			return "it stays on this machine, and torbpf leaves it alone"
		}
		return fmt.Sprintf("it goes to the link of %s, and by no other interface", x.way())
	case abi.VerdictVia:
		return fmt.Sprintf("it leaves by the excluded interface %s, and by no other", x.way())
	case abi.VerdictDirect, abi.VerdictInbound:
		text := "it leaves as if torbpf were not there: the kernel routes it by " + x.way()
		if x.hop.Gateway.IsValid() {
			text += " to " + x.hop.Gateway.String()
		}
		return text + " now"
	case abi.VerdictRefused:
		return "nftables stops it as it is sent"
	default:
		return "torbpf does not judge it: only what torbpf exec --tor runs is on Tor"
	}
}

// answer is what a program is told of what is refused.
func (x *ownExplained) answer() string {
	switch verdict, _ := x.now(); {
	case verdict != abi.VerdictRefused:
		return ""
	case x.verdict == abi.VerdictResolver:
		return "DNS with SERVFAIL"
	case x.Protocol == unix.IPPROTO_TCP:
		return "a reset: connection refused"
	default:
		return "the error of the call: operation not permitted"
	}
}

// depends says what nobody can tell beforehand.
func (x *ownExplained) depends() []string {
	var out []string
	c := x.plan.Client
	toOthers := x.verdict == abi.VerdictTor || x.verdict == abi.VerdictRefused
	if marks := c.Rules.Of(config.KindMark); len(marks) > 0 && toOthers && x.class != abi.VerdictTor {
		var texts []string
		for _, r := range marks {
			texts = append(texts, r.Mark.String())
		}
		out = append(out, fmt.Sprintf("your own rules: it goes direct if one of them, in output before priority %d, gives it the mark %s", plan.PriorityLateMarks, strings.Join(texts, " or ")))
	}
	if len(c.Exits) > 0 && toOthers && x.class != abi.VerdictTor {
		var names []string
		for _, e := range c.Exits {
			names = append(names, e.Name)
		}
		out = append(out, fmt.Sprintf("its route: if that led to %s it would go there directly", strings.Join(names, " or ")))
	}
	if x.verdict == abi.VerdictVia {
		out = append(out, "its route: when that leads elsewhere, this rule says nothing of it any more")
	}
	if x.rule != nil && !x.rule.Until.IsZero() {
		out = append(out, "the time: that rule ends by itself")
	}
	return out
}

// notes are what else somebody who asks should know.
func (x *ownExplained) notes() []string {
	var out []string
	if x.unnamed() && len(x.plan.Client.Identities) > 0 {
		out = append(out, "nobody was named who sends it, so rules for users, control groups and programs were left out: name him with --user, --cgroup, --program or --pid")
	}
	if x.verdict == abi.VerdictTor && plan.Private(netip.PrefixFrom(x.To, x.To.BitLen())) {
		out = append(out, "Tor reaches no private address, so tor ends it")
	}
	return out
}

// service is what a rule for the packet's port, or protocol, names.
func (x *ownExplained) service() config.Service {
	s := config.Service{Protocol: x.Protocol, Port: x.DstPort}
	if s.Protocol == unix.IPPROTO_ICMPV6 && x.To.Is6() {
		s.Protocol = config.ProtocolICMP
	}
	return s
}

// change lists what to type for another outcome, the narrowest first.
func (x *ownExplained) change() []Advice {
	var out []Advice
	if _, reason := x.now(); reason == abi.ReasonTorNotReady {
		out = append(out, Advice{"sudo torbpf status", "shows how far Tor is"})
	}
	if x.rule != nil {
		out = append(out, x.changeRule(*x.rule)...)
		if x.rule.Policy != config.PolicyTor || x.class == abi.VerdictTor {
			return out
		}
	}
	port := Advice{fmt.Sprintf("sudo torbpf exclude add --client --port %s@%s", x.service(), x.To), "lets it go direct, in clear, whoever sends it"}
	wide := Advice{fmt.Sprintf("sudo torbpf exclude add --client %s", x.To), "lets all but DNS to this destination go direct"}
	switch {
	case x.class == abi.VerdictTor:
		return out
	case torsDNS[x.reason]:
		return append(append(out, port), x.openSender()...)
	case x.reason == abi.ReasonLocalSubnet:
		return append(out, Advice{"sudo torbpf attach --client --local none", "leaves local subnets to nobody"})
	case x.reason == abi.ReasonReservedOpen:
		return append(out, Advice{"sudo torbpf attach --client --local connected", "lets the own subnets alone be reached"})
	case torAtLast[x.reason]:
		return append(append(out, port, wide), x.openSender()...)
	}
	return out
}

// openSender are rules for whom the question names.
func (x *ownExplained) openSender() []Advice {
	var out []Advice
	for _, f := range []struct{ flag, text string }{{"--program", x.Program}, {"--cgroup", x.Cgroup}, {"--user", x.User}} {
		if f.text != "" {
			out = append(out, Advice{fmt.Sprintf("sudo torbpf exclude add %s %s", f.flag, f.text), "lets all that it sends go direct, its DNS included"})
		}
	}
	return out
}

// changeRule takes a rule away, or this packet out of it.
func (x *ownExplained) changeRule(r config.Rule) []Advice {
	client := "--client "
	if kindOfSender(r.Kind) {
		client = ""
	}
	effect := "without it the next wider rule counts, or none"
	if !r.Runtime && r.Origin != "" {
		effect += fmt.Sprintf("; for good only by taking it out of %s", r.Origin)
	}
	remove := Advice{"sudo torbpf exclude del " + client + kindFlag(r.Kind) + r.String(), effect}
	if r.Policy == config.PolicyTor {
		return []Advice{remove}
	}
	kept := func(what string) []Advice {
		return []Advice{{"sudo torbpf exclude add --client " + what + " --policy tor", "keeps this with Tor, and leaves the rest to that rule"}, remove}
	}
	switch {
	case r.Kind == config.KindDestination && !r.Prefix.IsSingleIP():
		return kept(x.To.String())
	case r.Kind == config.KindPort && (!r.Prefix.IsValid() || !r.Prefix.IsSingleIP()):
		return kept(fmt.Sprintf("--port %s@%s", x.service(), x.To))
	}
	return []Advice{remove}
}

func kindOfSender(k config.Kind) bool {
	return k == config.KindUser || k == config.KindCgroup || k == config.KindProgram
}
