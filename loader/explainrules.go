package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
)

// Match is a rule that the programs find: an entry of a map in force. The look-ups are
// those of bpf/match.h, on the same maps.
type Match struct {
	Policy  abi.Policy
	Ends    time.Duration // since boot; 0: never
	Beneath bool          // the rule itself has ended; this is what was beneath it
	Hidden  bool          // there are more rules that have ended than the programs look behind
	table   string
	key     any
}

// Of returns the rule that was written there. One that is none of these has been
// changed meanwhile.
func (m Match) Of(rules config.Rules) (config.Rule, bool) {
	var found config.Rule
	ok := false
	for _, r := range rules { // of two that share an entry the later one was written last
		if m.is(r) {
			found, ok = r, true
		}
	}
	return found, ok
}

func (m Match) is(r config.Rule) bool {
	switch r.Kind {
	case config.KindDestination:
		return m.table == dstPrefixes.of(r.Prefix) && m.key == prefixKey(r.Prefix)
	case config.KindSource:
		return m.table == srcPrefixes.of(r.Prefix) && m.key == prefixKey(r.Prefix)
	case config.KindDevice:
		return m.key == any(abi.DatapathMac{Addr: r.MAC})
	case config.KindMark:
		return m.key == any(r.Mark)
	case config.KindDomain:
		return m.key == any(abi.DomainKey(r.Domain))
	case config.KindPort:
		for _, prefix := range servicePrefixes(r) {
			if table, key := serviceKey(r.Service, prefix); m.table == table && m.key == key {
				return true
			}
		}
	}
	return false
}

func (t twins) of(prefix netip.Prefix) string {
	if prefix.Addr().Is4() {
		return t[0]
	}
	return t[1]
}

// Source finds the rule for a source address; ok is false where there is none.
func (e *Explainer) Source(addr netip.Addr) (m Match, ok bool, err error) {
	return e.address(srcPrefixes, addr, abi.PolicyBlock)
}

// Destination finds the rule for a destination address.
func (e *Explainer) Destination(addr netip.Addr) (m Match, ok bool, err error) {
	return e.address(dstPrefixes, addr, abi.PolicyTor)
}

func (e *Explainer) address(tables twins, addr netip.Addr, beyond abi.Policy) (Match, bool, error) {
	return e.longest(addr.BitLen(), beyond, func(bits int) (string, any) {
		prefix, _ := addr.Prefix(bits)
		return tables.of(prefix), prefixKey(prefix)
	})
}

// Port finds the rule for a protocol, by its number, and port of a destination.
func (e *Explainer) Port(addr netip.Addr, of config.Service) (m Match, ok bool, err error) {
	if !of.HasPorts() {
		of.Port = 0
	}
	return e.longest(serviceBits+addr.BitLen(), abi.PolicyTor, func(bits int) (string, any) {
		prefix, _ := addr.Prefix(bits - serviceBits)
		return packetServiceKey(of, prefix)
	})
}

// longest looks behind entries that have ended, as longest_policy() does.
func (e *Explainer) longest(bits int, beyond abi.Policy, at func(bits int) (string, any)) (Match, bool, error) {
	shortest := 0
	if table, _ := at(bits); table == portPrefixes[0] || table == portPrefixes[1] {
		shortest = serviceBits // of others the protocol would not be all
	}
	for range abi.MaxNested {
		table, key := at(bits)
		rule, ok, err := lookup[abi.DatapathRule](e, table, key)
		if err != nil || !ok {
			return Match{}, false, err
		}
		bits = int(rule.Prefixlen)
		table, key = at(bits)
		if m, live, err := match(rule, table, key); err != nil || live {
			return m, live, err
		}
		if bits--; bits < shortest {
			return Match{}, false, nil
		}
	}
	table, key := at(bits)
	_, more, err := lookup[abi.DatapathRule](e, table, key)
	return Match{Policy: beyond, Hidden: true}, more, err
}

// Device finds the rule for a hardware address.
func (e *Explainer) Device(mac config.MAC) (m Match, ok bool, err error) {
	return e.entry(abi.DatapathMapDevices, abi.DatapathMac{Addr: mac})
}

// Exit finds the rule for an interface that packets leave by.
func (e *Explainer) Exit(ifindex int) (m Match, ok bool, err error) {
	return e.entry(abi.DatapathMapExits, uint32(ifindex))
}

func (e *Explainer) entry(table string, key any) (Match, bool, error) {
	rule, ok, err := lookup[abi.DatapathRule](e, table, key)
	if err != nil || !ok {
		return Match{}, false, err
	}
	return match(rule, table, key)
}

// Mark finds the first exemption of a mark, which is without our bits.
func (e *Explainer) Mark(mark uint32) (m Match, ok bool, err error) {
	settings, _, err := lookup[abi.DatapathSettings](e, abi.DatapathMapSettings, uint32(0))
	if err != nil {
		return Match{}, false, err
	}
	for i := range settings.ExemptMarks {
		exempt, _, err := lookup[abi.DatapathExemptMark](e, abi.DatapathMapExemptMarks, i)
		if err != nil {
			return Match{}, false, err
		}
		if mark&exempt.Mask != exempt.Value {
			continue
		}
		key := config.Mark{Value: exempt.Value, Mask: exempt.Mask}
		if m, live, err := match(exempt.Rule, abi.DatapathMapExemptMarks, key); err != nil || live {
			return m, live, err
		}
	}
	return Match{}, false, nil
}

// Local returns the local subnet or the reserved space that an address is in, with the
// index of the subnet's interface, which is 0 for reserved space.
func (e *Explainer) Local(addr netip.Addr) (prefix netip.Prefix, ifindex int, err error) {
	host, _ := addr.Prefix(addr.BitLen())
	m := e.maps[localPrefixes.of(host)]
	if m == nil {
		return prefix, 0, fmt.Errorf("find map %s: %w", localPrefixes.of(host), ebpf.ErrKeyNotExist)
	}
	err = eachPrefix(m, func(p netip.Prefix, subnet abi.DatapathLocalSubnet) error {
		if p.Contains(addr) && (!prefix.IsValid() || p.Bits() > prefix.Bits()) {
			prefix, ifindex = p, int(subnet.Ifindex)
		}
		return nil
	})
	if err != nil {
		return prefix, 0, fmt.Errorf("list map %s: %w", localPrefixes.of(host), err)
	}
	return prefix, ifindex, nil
}

// match is policy_now() of bpf/shared.h; ok is false when all that a rule says has ended.
func match(r abi.DatapathRule, table string, key any) (m Match, ok bool, err error) {
	now, err := kernel.BootTime()
	m = Match{Policy: r.Policy, Ends: time.Duration(r.UntilNs), table: table, key: key}
	if err != nil || r.UntilNs == 0 || r.UntilNs > uint64(now) {
		return m, err == nil, err
	}
	if r.ThenUntilNs <= uint64(now) {
		return Match{}, false, nil
	}
	m.Policy, m.Ends, m.Beneath = r.Then, 0, true
	if r.ThenUntilNs != abi.ForEver {
		m.Ends = time.Duration(r.ThenUntilNs)
	}
	return m, true, nil
}

// lookup reads an entry of a map in force; ok is false where there is none.
func lookup[V any](e *Explainer, table string, key any) (value V, ok bool, err error) {
	m := e.maps[table]
	if m == nil {
		return value, false, fmt.Errorf("the programs in force use no map %s: run `torbpf attach` once more", table)
	}
	err = m.Lookup(key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	if err != nil {
		return value, false, fmt.Errorf("read map %s: %w", table, err)
	}
	return value, true, nil
}
