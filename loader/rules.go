package loader

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// fillRules writes what the user wants to be otherwise than through Tor.
func fillRules(maps map[string]*ebpf.Map, p *plan.Plan) error {
	marks := uint32(0)
	for i, r := range p.Rules {
		value, err := ruleValue(i, r)
		if err != nil {
			return err
		}
		switch r.Kind {
		case config.KindDestination:
			err = putRule(maps, dstPrefixes, r.Prefix, value)
		case config.KindSource:
			err = putRule(maps, srcPrefixes, r.Prefix, value)
		case config.KindPort:
			err = putService(maps, r, value)
		case config.KindDevice:
			err = maps[abi.DatapathMapDevices].Put(abi.DatapathMac{Addr: r.MAC}, value)
		case config.KindMark:
			err = putMark(maps[abi.DatapathMapExemptMarks], marks, r.Mark, value)
			marks++
		case config.KindDomain:
			err = maps[abi.DatapathMapDomains].Put(abi.DomainKey(r.Domain), value)
		case config.KindInterface: // below: it takes an index
		case config.KindList: // see Lists
		default:
			err = fmt.Errorf("kind %q is unknown", r.Kind)
		}
		if err != nil {
			return fmt.Errorf("write rule %s %s: %w", r.Kind, r.Entry, err)
		}
	}
	return fillExits(maps[abi.DatapathMapExits], p.Exits, p.Rules)
}

// fillOwn writes what the uplinks have to know of the rules for what this machine itself
// sends; all else of them is in its packets' classes.
func fillOwn(maps map[string]*ebpf.Map, p *plan.Plan) error {
	if p.Client == nil {
		return nil
	}
	marks := uint32(0)
	for i, r := range p.Client.Rules {
		if r.Kind != config.KindMark {
			continue
		}
		value, err := ruleValue(i, r)
		if err == nil {
			err = putMark(maps[abi.DatapathMapOwnMarks], marks, r.Mark, value)
		}
		if err != nil {
			return fmt.Errorf("write rule %s %s: %w", r.Kind, r.Entry, err)
		}
		marks++
	}
	return fillExits(maps[abi.DatapathMapOwnExits], p.Client.Exits, p.Client.Rules)
}

// ownMarks is how many marks exempt what this machine itself sends.
func ownMarks(p *plan.Plan) uint32 {
	if p.Client == nil {
		return 0
	}
	return uint32(len(p.Client.Rules.Of(config.KindMark)))
}

// fillExits writes the interfaces that are there; for the others nothing leaves.
func fillExits(table *ebpf.Map, exits []plan.Exit, rules config.Rules) error {
	for _, e := range exits {
		if e.Index == 0 {
			continue
		}
		value, err := ruleValue(e.Rule, rules[e.Rule])
		if err == nil {
			err = table.Put(uint32(e.Index), value)
		}
		if err != nil {
			return fmt.Errorf("write rule interface %s: %w", e.Name, err)
		}
	}
	return nil
}

// ruleValue is a rule as the programs have it; its id is its place in the plan. One that
// ends must say when by the clock that the programs know, or it never would.
func ruleValue(id int, r config.Rule) (abi.DatapathRule, error) {
	value := abi.DatapathRule{UntilNs: uint64(r.Ends), Policy: abi.PolicyOf(r.Policy), Id: uint32(id)}
	for layer := &r; layer != nil; layer = layer.Beneath {
		if !layer.Until.IsZero() && layer.Ends <= 0 {
			return abi.DatapathRule{}, fmt.Errorf("rule %s %s: when it ends is not known since boot", r.Kind, r.Entry)
		}
	}
	if r.Beneath == nil {
		return value, nil
	}
	if r.Beneath.Policy == config.PolicyDirect || r.Beneath.Beneath != nil {
		return abi.DatapathRule{}, fmt.Errorf("rule %s %s: what is beneath it is for user space to bring back", r.Kind, r.Entry)
	}
	value.Then, value.ThenUntilNs = abi.PolicyOf(r.Beneath.Policy), cmp.Or(uint64(r.Beneath.Ends), abi.ForEver)
	return value, nil
}

func putRule(maps map[string]*ebpf.Map, names twins, prefix netip.Prefix, value abi.DatapathRule) error {
	value.Prefixlen = uint32(prefix.Bits())
	return putPrefix(maps, names, prefix, value)
}

// serviceBits are those of a key before its address: protocol and port.
const serviceBits = 32

func putService(maps map[string]*ebpf.Map, r config.Rule, value abi.DatapathRule) error {
	for _, prefix := range servicePrefixes(r) {
		value.Prefixlen = uint32(serviceBits + prefix.Bits())
		name, key := serviceKey(r.Service, prefix)
		if err := maps[name].Put(key, value); err != nil {
			return err
		}
	}
	return nil
}

// servicePrefixes are the destinations of a rule for a port: all of both families if it
// names none.
func servicePrefixes(r config.Rule) []netip.Prefix {
	if r.Prefix.IsValid() {
		return []netip.Prefix{r.Prefix}
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// serviceKey names the map of a prefix's family and the key there.
func serviceKey(s config.Service, prefix netip.Prefix) (string, any) {
	if s.Protocol == config.ProtocolICMP && prefix.Addr().Is6() {
		s.Protocol = unix.IPPROTO_ICMPV6
	}
	return packetServiceKey(s, prefix)
}

// packetServiceKey is serviceKey by the protocol number that a packet has.
func packetServiceKey(s config.Service, prefix netip.Prefix) (string, any) {
	port := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, s.Port))
	bits := uint32(serviceBits + prefix.Bits())
	if prefix.Addr().Is4() {
		addr := prefix.Addr().As4()
		return portPrefixes[0], abi.DatapathService4{Prefixlen: bits, Protocol: s.Protocol, PortBe: port, AddrBe: binary.NativeEndian.Uint32(addr[:])}
	}
	return portPrefixes[1], abi.DatapathService6{Prefixlen: bits, Protocol: s.Protocol, PortBe: port, Addr: prefix.Addr().As16()}
}

func putMark(table *ebpf.Map, i uint32, m config.Mark, value abi.DatapathRule) error {
	if i >= table.MaxEntries() {
		return fmt.Errorf("it is one more than the %d that each packet is compared with: merge some by their mask", table.MaxEntries())
	}
	return table.Put(i, abi.DatapathExemptMark{Value: m.Value, Mask: m.Mask, Rule: value})
}
