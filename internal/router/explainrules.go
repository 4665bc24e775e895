package router

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// ruled are the reasons that a rule gives.
var ruled = map[abi.Reason]bool{
	abi.ReasonDirectDevice: true, abi.ReasonBlockedDevice: true, abi.ReasonDirectSource: true, abi.ReasonBlockedSource: true,
	abi.ReasonOnionFromDirect: true, abi.ReasonDirectPort: true, abi.ReasonDirectDestination: true, abi.ReasonExemptMark: true,
	abi.ReasonDirectInterface: true, abi.ReasonDirectDomain: true, abi.ReasonDNSDomain: true,
}

// ruleSearch is what the maps in force say of a packet.
type ruleSearch struct {
	decided bool         // an entry gave the verdict, or keeps with Tor what another would let out
	hidden  bool         // so many have ended there that the programs look for no other
	entry   config.Entry // its kind, and the rest where the list has the rule
	rule    *config.Rule // nil: the list has changed meanwhile
}

// search looks for the rule that decided, in the order of classify_policy() in
// bpf/classify.h. A reason of the last steps may follow from a rule that says "tor".
func (x *explained) search() (ruleSearch, error) {
	for _, look := range x.looks() {
		m, ok, err := look.find()
		if err != nil {
			return ruleSearch{}, err
		}
		if ok && (slices.Contains(look.gives, x.reason) || m.Policy == abi.PolicyTor && x.comesTo(look.kind)) {
			return x.foundRule(look.kind, m), nil
		}
	}
	return ruleSearch{}, nil
}

// lookUp is one look-up, and the reasons that what it finds gives.
type lookUp struct {
	kind  config.Kind
	gives []abi.Reason
	find  func() (loader.Match, bool, error)
}

func (x *explained) looks() []lookUp {
	mac := x.MAC
	if !x.lan.Ethernet {
		mac = config.MAC{}
	}
	return []lookUp{
		{config.KindDevice, []abi.Reason{abi.ReasonDirectDevice, abi.ReasonBlockedDevice, abi.ReasonOnionFromDirect},
			func() (loader.Match, bool, error) { return x.explain.Device(mac) }},
		{config.KindSource, []abi.Reason{abi.ReasonDirectSource, abi.ReasonBlockedSource, abi.ReasonOnionFromDirect},
			func() (loader.Match, bool, error) { return x.explain.Source(x.From) }},
		{config.KindPort, []abi.Reason{abi.ReasonDirectPort},
			func() (loader.Match, bool, error) {
				return x.explain.Port(x.To, config.Service{Protocol: x.Protocol, Port: x.DstPort})
			}},
		{config.KindDestination, []abi.Reason{abi.ReasonDirectDestination},
			func() (loader.Match, bool, error) { return x.explain.Destination(x.To) }},
		{config.KindMark, []abi.Reason{abi.ReasonExemptMark},
			func() (loader.Match, bool, error) { return x.explain.Mark(x.Mark &^ x.plan.Mark.Mask()) }},
		{config.KindDomain, []abi.Reason{abi.ReasonDirectDomain},
			func() (loader.Match, bool, error) { return x.explain.Domain(mac, x.flow()) }},
		{config.KindDomain, []abi.Reason{abi.ReasonDNSDomain},
			func() (loader.Match, bool, error) { return x.explain.Asked(x.asksFor()) }},
		{config.KindInterface, []abi.Reason{abi.ReasonDirectInterface},
			func() (loader.Match, bool, error) { return x.explain.Exit(x.hop.Index) }},
	}
}

// comesTo tells whether a rule of that kind that says "tor" is why a packet ended as it
// did. What is judged before the rule, or lets out behind it, says so itself.
func (x *explained) comesTo(kind config.Kind) bool {
	switch kind {
	case config.KindDevice, config.KindSource:
		return atLast[x.reason] || torsDNS[x.reason]
	case config.KindPort, config.KindDestination:
		return atLast[x.reason]
	default:
		return false
	}
}

// atLast are the reasons of the last steps, behind the rules for destinations.
var atLast = map[abi.Reason]bool{
	abi.ReasonTCP: true, abi.ReasonUDP: true, abi.ReasonQUIC: true, abi.ReasonNTP: true, abi.ReasonNTPRouter: true,
	abi.ReasonICMP: true, abi.ReasonProtocol: true, abi.ReasonPrivate: true, abi.ReasonLocalSubnet: true, abi.ReasonLateMark: true,
}

// torsDNS are the reasons by which DNS is Tor's, or the sentry's.
var torsDNS = map[abi.Reason]bool{
	abi.ReasonDNSUDP: true, abi.ReasonDNSTCP: true, abi.ReasonDNSNoData: true, abi.ReasonDNSLocal: true,
}

func (x *explained) foundRule(kind config.Kind, m loader.Match) ruleSearch {
	found := ruleSearch{decided: true, hidden: m.Hidden, entry: config.Entry{Kind: kind}}
	rule, known := m.Of(x.plan.Rules)
	if kind == config.KindInterface {
		i := slices.IndexFunc(x.plan.Exits, func(e plan.Exit) bool { return e.Index == x.hop.Index })
		if known = i >= 0; known {
			rule = x.plan.Rules[x.plan.Exits[i].Rule]
		}
	}
	if known && m.Beneath && rule.Beneath != nil { // else somebody has brought it back meanwhile
		beneath := *rule.Beneath
		beneath.Entry, rule = rule.Entry, beneath
	}
	if known {
		found.entry, found.rule = rule.Entry, &rule
	}
	return found
}

// decided says in words what decided: a rule, or what else the reason follows from.
func (x *explained) decided() (string, error) {
	if x.rules.rule != nil {
		return ruleWords(*x.rules.rule), nil
	}
	if x.rules.hidden {
		return fmt.Sprintf("%d rules for a %s that cover it have ended, and hide whether any other is in force", abi.MaxNested, x.rules.entry.Kind), nil
	}
	if x.rules.decided {
		return fmt.Sprintf("a rule for a %s, which has been changed meanwhile", x.rules.entry.Kind), nil
	}
	switch x.reason {
	case abi.ReasonRouterDNS:
		if x.DstPort == config.PortDNS {
			return fmt.Sprintf("%s is the address of a group, so this would reach the router's resolver past Tor", x.To), nil
		}
		fallthrough
	case abi.ReasonRouterAddress:
		return fmt.Sprintf("%s is an address of the router's", x.To), nil
	case abi.ReasonOnionTCP, abi.ReasonOnionDNS, abi.ReasonOnionProtocol:
		onion := x.plan.Onion4
		if x.To.Is6() {
			onion = x.plan.Onion6
		}
		return fmt.Sprintf("%s is in the .onion range %s", x.To, onion), nil
	case abi.ReasonForeignSource:
		return fmt.Sprintf("no LAN has the source %s", x.From), nil
	case abi.ReasonLocalSubnet, abi.ReasonPrivate, abi.ReasonReservedOpen, abi.ReasonLateMark:
		return x.localWords()
	case abi.ReasonDirectList:
		return x.listWords(), nil
	case abi.ReasonInboundReply:
		return "somebody outside has begun a flow of which this is an answer", nil
	default:
		return "no rule is about it", nil
	}
}

// localWords says which subnet or reserved space the destination is in.
func (x *explained) localWords() (string, error) {
	prefix, index, err := x.explain.Local(x.To)
	switch {
	case err != nil:
		return "", err
	case !prefix.IsValid():
		return "no rule is about it", nil
	case index == 0:
		return fmt.Sprintf("%s is in the reserved space %s", x.To, prefix), nil
	default:
		return fmt.Sprintf("%s is in the local subnet %s of %s", x.To, prefix, linkName(x.facts, index)), nil
	}
}

// ruleWords tells a rule as `exclude list` has it, and what put it there.
func ruleWords(r config.Rule) string {
	text := fmt.Sprintf("the rule %s %s (%s)", r.Kind, r.Entry, r.Policy)
	if !r.Until.IsZero() {
		text += " until " + r.Until.Local().Format(time.DateTime)
	}
	switch {
	case r.Origin == "":
	case r.Runtime:
		text += ", by " + r.Origin
	default:
		text += ", in " + r.Origin
	}
	if r.Comment != "" {
		text += ": " + r.Comment
	}
	return text
}

// localInterface is the interface of the local subnet that the destination is in.
func (x *explained) localInterface() (netip.Prefix, string) {
	prefix, index, err := x.explain.Local(x.To)
	if err != nil || index == 0 {
		return prefix, ""
	}
	return prefix, linkName(x.facts, index)
}
