package model

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// TestTheRuleThatIsNamedIsTheOneThatDecided: what is found on the maps from outside is
// what the program's verdict follows from, and the entry that the model's lists have.
func TestTheRuleThatIsNamedIsTheOneThatDecided(t *testing.T) {
	enterNamespace(t)
	const packets, batch, limit = 20_000, 200, 20 * time.Second
	o := load(t, 24)
	e := o.explainer()
	d := newDice(4)
	met := make(map[abi.Reason]int)
	wanted := []abi.Reason{abi.ReasonDirectSource, abi.ReasonBlockedSource, abi.ReasonDirectDevice, abi.ReasonBlockedDevice, abi.ReasonDirectPort, abi.ReasonDirectDestination, abi.ReasonExemptMark, abi.ReasonLocalSubnet, abi.ReasonDirectDomain}
	missing := func(r abi.Reason) bool { return met[r] == 0 }
	compared, start := 0, time.Now()
	for (compared < packets || slices.ContainsFunc(wanted, missing)) && time.Since(start) < limit {
		p := d.policy()
		o.set(p)
		for range batch {
			frame, mark := etherTo(routerMAC, hostMAC, d.packet(p)), d.Uint32()
			k := Parse(frame, true, Metadata{Protocol: stackProtocol(frame), Mark: mark})
			if k.Layer3 != IPv4 && k.Layer3 != IPv6 || k.Layer3 == IPv6 && k.Protocol == protoICMP {
				continue // of the latter no rule is written: with IPv6 ICMP has another number
			}
			said, err := e.Judge(lanOf("torbpf_lan"), frame, mark)
			if err == nil {
				err = comparedWith(e, p, k, said)
			}
			if err != nil {
				t.Fatalf("under %+v on\n% x, which is %s, %s:\n%v", *p, frame, said.Verdict, said.Reason, err)
			}
			met[said.ReadyReason]++
			compared++
		}
	}
	t.Logf("%d packets: %v", compared, met)
	for _, r := range wanted {
		if missing(r) {
			t.Errorf("no packet met the reason %s", r)
		}
	}
}

// TestWhatIsBehindTooManyEndedRulesIsExplained: no rule can be named then, and none lets out.
func TestWhatIsBehindTooManyEndedRulesIsExplained(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	e := o.explainer()
	p := home()
	with(endedDestinations("50.1.0.0/20", "50.1.0.0/24", "50.1.0.0/28", "50.1.0.0/30", "50.0.0.0/20", "50.0.0.0/24", "50.0.0.0/28", "50.0.0.0/30"))(p)
	o.set(p)
	if m, ok, err := e.Destination(netip.MustParseAddr(excluded4)); err != nil || !ok || !m.Hidden || m.Policy != abi.PolicyTor {
		t.Errorf("found %+v, %t, %v; want one that is hidden, and Tor's", m, ok, err)
	}
	if m, ok, err := e.Destination(netip.MustParseAddr(web4)); err != nil || ok {
		t.Errorf("found %+v, %t, %v; nothing is behind the four", m, ok, err)
	}
}

// found is what one look-up found: with what policy, and which of the rules it was.
type found struct {
	ok     bool
	policy abi.Policy
	hidden bool // behind more rules than are looked behind
	rule   config.Rule
}

func (f found) says(p abi.Policy) bool { return f.ok && f.policy == p }

// comparedWith looks all maps up for a packet, and compares with the lists and the verdict.
func comparedWith(e *loader.Explainer, p *Policy, k Packet, said loader.Explained) error {
	service := config.Service{Protocol: k.Protocol, Port: k.DstPort}
	flow := plan.Flow{Protocol: k.Protocol, Src: netip.AddrPortFrom(k.Src, k.SrcPort), Dst: netip.AddrPortFrom(k.Dst, k.DstPort)}
	var device, source, port, destination, mark, domain found
	for _, look := range []struct {
		into  *found
		find  func() (loader.Match, bool, error)
		rules config.Rules
	}{
		{&device, func() (loader.Match, bool, error) { return e.Device(k.MAC) }, deviceRules(p)},
		{&source, func() (loader.Match, bool, error) { return e.Source(k.Src) }, prefixRules(config.KindSource, p.Sources)},
		{&port, func() (loader.Match, bool, error) { return e.Port(k.Dst, service) }, portRules(p.Services)},
		{&destination, func() (loader.Match, bool, error) { return e.Destination(k.Dst) }, prefixRules(config.KindDestination, p.Destinations)},
		{&mark, func() (loader.Match, bool, error) { return e.Mark(k.Mark &^ p.OurMark.Mask()) }, config.DirectMarks(p.Exempt...)},
		{&domain, func() (loader.Match, bool, error) { return e.Domain(k.MAC, flow) }, domainRules(p)},
	} {
		m, ok, err := look.find()
		if err != nil {
			return err
		}
		*look.into = found{ok: ok, policy: m.Policy, hidden: m.Hidden}
		if ok && !m.Hidden {
			rule, known := m.Of(look.rules)
			if !known {
				return fmt.Errorf("what was found as %+v is none of the rules", m)
			}
			look.into.rule = rule
		}
	}
	if k.hidesPort() {
		port = found{ok: p.torPorts(), policy: abi.PolicyTor} // any may be its port
	}
	if err := sameAsLists(p, k, source, destination, port); err != nil {
		return err
	}
	if named := p.byName(k); named != domain.ok && k.Fragment == Whole {
		return fmt.Errorf("found the name %+v, the lists say %t", domain, named)
	}
	if said.ReadyReason == abi.ReasonDirectDomain && !domain.says(abi.PolicyDirect) {
		return fmt.Errorf("found the name %+v", domain)
	}
	return followsFrom(said.ReadyReason, device, source, port, destination, mark)
}

// followsFrom checks that a reason which a rule gives has that rule.
func followsFrom(r abi.Reason, device, source, port, destination, mark found) error {
	own := device
	if !own.ok {
		own = source
	}
	holds := map[abi.Reason]bool{
		abi.ReasonDirectDevice:      device.says(abi.PolicyDirect),
		abi.ReasonBlockedDevice:     device.says(abi.PolicyBlock),
		abi.ReasonDirectSource:      !device.ok && source.says(abi.PolicyDirect),
		abi.ReasonBlockedSource:     !device.ok && source.says(abi.PolicyBlock),
		abi.ReasonOnionFromDirect:   own.says(abi.PolicyDirect),
		abi.ReasonDirectPort:        port.says(abi.PolicyDirect),
		abi.ReasonDirectDestination: !port.ok && destination.says(abi.PolicyDirect),
		abi.ReasonExemptMark:        mark.ok && !port.says(abi.PolicyDirect) && (port.ok || !destination.says(abi.PolicyDirect)),
		// Nothing that comes before the last steps applies.
		abi.ReasonTCP: !own.says(abi.PolicyDirect) && !own.says(abi.PolicyBlock) && !port.says(abi.PolicyDirect) && !mark.ok &&
			(port.ok || !destination.says(abi.PolicyDirect)),
	}
	if fits, of := holds[r]; of && !fits {
		return fmt.Errorf("found device %+v, source %+v, port %+v, destination %+v, mark %+v", device, source, port, destination, mark)
	}
	return nil
}

// sameAsLists compares with the model, whose lists know no map.
func sameAsLists(p *Policy, k Packet, source, destination, port found) error {
	for _, c := range []struct {
		what string
		got  found
		addr netip.Addr
		list []PrefixPolicy
	}{
		{"source", source, k.Src, p.Sources}, {"destination", destination, k.Dst, p.Destinations},
	} {
		beyond := abi.PolicyTor
		if c.what == "source" {
			beyond = abi.PolicyBlock
		}
		policy, ok := findPolicy(c.list, c.addr, beyond)
		if ok != c.got.ok || ok && policy != c.got.policy {
			return fmt.Errorf("found %s %+v, the list says %v, %t", c.what, c.got, policy, ok)
		}
		if c.got.hidden {
			continue
		}
		if ok && !c.got.rule.Prefix.Contains(c.addr) {
			return fmt.Errorf("found %s %s", c.what, c.got.rule.Entry)
		}
		written := make(map[netip.Prefix]PrefixPolicy) // of the same prefix the last
		for _, e := range c.list {
			written[e.Prefix] = e
		}
		for prefix, e := range written {
			if _, counts := policyNow(e.Policy, e.Ended, e.Then); ok && counts && prefix.Contains(c.addr) && prefix.Bits() > c.got.rule.Prefix.Bits() {
				return fmt.Errorf("found %s %s, but %s is longer", c.what, c.got.rule.Entry, prefix)
			}
		}
	}
	if policy, ok := p.service(k); ok != port.ok || ok && policy != port.policy {
		return fmt.Errorf("found port %+v, the list says %v, %t", port, policy, ok)
	}
	return nil
}

func prefixRules(kind config.Kind, list []PrefixPolicy) config.Rules {
	var out config.Rules
	for _, e := range list {
		out = append(out, config.Rule{Entry: config.Entry{Kind: kind, Prefix: e.Prefix}})
	}
	return out
}

func portRules(list []ServicePolicy) config.Rules {
	var out config.Rules
	for _, e := range list {
		out = append(out, config.Rule{Entry: config.Entry{Kind: config.KindPort, Prefix: e.Prefix, Service: e.Service}})
	}
	return out
}

func domainRules(p *Policy) config.Rules {
	var out config.Rules
	for _, name := range p.Domains {
		out = append(out, config.Direct(config.Entry{Kind: config.KindDomain, Domain: name}))
	}
	return out
}

func deviceRules(p *Policy) config.Rules {
	var out config.Rules
	for mac := range p.Devices {
		out = append(out, config.Rule{Entry: config.Entry{Kind: config.KindDevice, MAC: mac}})
	}
	return out
}
