package model

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// dice makes policies and frames in which the interesting is frequent: edges
// of prefixes, ports that mean something, fragments, extension headers.
type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0x746f72))} }

// one says yes once in n times.
func (d dice) one(n int) bool { return d.IntN(n) == 0 }

func pick[T any](d dice, list ...T) T { return list[d.IntN(len(list))] }

// special are addresses at the edges of what the classifier knows.
var special = []string{
	"0.0.0.0", "0.0.0.1", "255.255.255.255", "255.255.255.254", "224.0.0.0", "223.255.255.255", "239.255.255.255",
	"240.0.0.0", "169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0", "127.0.0.1", mdns4,
	"::", "::1", "::ffff:192.168.1.1", "::fffe:192.168.1.1", "0:0:0:1:0:ffff:c0a8:101", "fe7f:ffff::", "fe80::",
	"febf:ffff::1", "fec0::", "feff:ffff::1", "ff00::", "ff02::1", mdns6,
	laptop4, blocked4, console4, phone4, printer4, router4, wan4, subnet4, web4, excluded4, carved4, onion4, vpn4, private4,
	laptop6, blocked6, console6, printer6, router6, link6, web6, excluded6, carved6, onion6, private6,
	peer4, peer6, guest4, forged4, stale4, guest6, forged6, stale6,
}

// address returns an address of one family, often one the policy speaks of.
func (d dice) address(p *Policy, four bool) netip.Addr {
	if d.one(8) {
		return d.anyAddress(four)
	}
	if d.one(2) {
		if prefixes := p.prefixes(four); len(prefixes) > 0 {
			return d.edge(pick(d, prefixes...))
		}
	}
	for {
		if a := netip.MustParseAddr(pick(d, special...)); a.Is4() == four {
			return a
		}
	}
}

// source returns an address of one family, mostly one that a LAN has.
func (d dice) source(p *Policy, four bool) netip.Addr {
	var own []netip.Prefix
	for _, l := range p.Local {
		if l.Prefix.Addr().Is4() == four && slices.Contains(p.LANs, l.Index) {
			own = append(own, l.Prefix)
		}
	}
	if len(own) == 0 || d.one(4) {
		return d.address(p, four)
	}
	if prefix := pick(d, own...); !d.one(2) {
		return d.edge(prefix)
	}
	for range 100 { // those that rules speak of
		if a := netip.MustParseAddr(pick(d, special...)); a.Is4() == four && !p.foreign(a) {
			return a
		}
	}
	return d.edge(own[0])
}

func (d dice) anyAddress(four bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], d.Uint64())
	binary.BigEndian.PutUint64(b[8:], d.Uint64())
	if four {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

// edge returns the first or last address of a prefix, the one outside next to
// it, or any within.
func (d dice) edge(prefix netip.Prefix) netip.Addr {
	first := prefix.Masked().Addr()
	last := first.AsSlice()
	within := slices.Clone(last)
	for bit := prefix.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
		if d.one(2) {
			within[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	end, _ := netip.AddrFromSlice(last)
	inside, _ := netip.AddrFromSlice(within)
	a := pick(d, first, end, first.Prev(), end.Next(), inside, inside)
	if !a.IsValid() {
		return first
	}
	return a
}

// prefixes returns all that a policy has of one family.
func (p *Policy) prefixes(four bool) []netip.Prefix {
	all := []netip.Prefix{p.Onion4, p.Onion6}
	for _, list := range [][]PrefixPolicy{p.Destinations, p.Sources, listOf(p)} {
		for _, e := range list {
			all = append(all, e.Prefix)
		}
	}
	for _, l := range p.Local {
		all = append(all, l.Prefix)
	}
	for _, a := range slices.Concat(p.Addrs, p.Broadcasts) {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return slices.DeleteFunc(all, func(prefix netip.Prefix) bool {
		return !prefix.IsValid() || prefix.Addr().Is4() != four
	})
}

// prefix returns a masked prefix, of any length but often an ordinary one.
func (d dice) prefix(p *Policy, four bool) netip.Prefix {
	a := d.address(p, four)
	bits := d.IntN(a.BitLen() + 1)
	if d.one(2) {
		bits = pick(d, 8, 10, 16, 24, 31, 32)
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// policy returns a policy as no plan would make it, but the maps can hold.
func (d dice) policy() *Policy {
	p := &Policy{
		LocalMode:  pick(d, abi.LocalConnected, abi.LocalReserved, abi.LocalNone),
		LateMarks:  d.one(2),
		Inbound:    d.one(2),
		TimeServer: d.one(2),
		GateOpen:   !d.one(4),
		Shut:       pick(d, nil, []int{0}, []int{1, 2}),
		LANs:       []int{lanIndex, guestIndex},
	}
	if d.one(3) {
		p = home()
		p.GateOpen = !d.one(4)
		p.LateMarks = d.one(2)
		p.Inbound = d.one(2)
	}
	p.Flows = make(map[InboundFlow]bool)
	for range d.IntN(12) {
		policy := pick(d, abi.PolicyDirect, abi.PolicyDirect, abi.PolicyTor, abi.PolicyBlock)
		p.Destinations = append(p.Destinations, PrefixPolicy{Prefix: d.prefix(p, d.one(2)), Policy: policy, Ended: d.one(4), Then: d.then()})
	}
	for range pick(d, 0, 0, 3) {
		policy := pick(d, abi.PolicyDirect, abi.PolicyTor, abi.PolicyBlock)
		p.Sources = append(p.Sources, PrefixPolicy{Prefix: d.prefix(p, d.one(2)), Policy: policy, Ended: d.one(4), Then: d.then()})
	}
	if d.one(4) {
		p.Destinations = append(p.Destinations, d.nest(p, abi.PolicyTor)...)
		p.Sources = append(p.Sources, d.nest(p, abi.PolicyBlock)...)
	}
	for range pick(d, 0, 0, 6) {
		of := config.Service{Protocol: pick[uint8](d, protoTCP, protoUDP, protoUDP, protoICMP, protoICMPv6, 47), Port: d.port()}
		if !of.HasPorts() {
			of.Port = 0
		}
		policy := pick(d, abi.PolicyDirect, abi.PolicyDirect, abi.PolicyTor)
		p.Services = append(p.Services, ServicePolicy{of, PrefixPolicy{Prefix: d.prefix(p, d.one(2)), Policy: policy, Ended: d.one(4), Then: d.then()}})
	}
	if d.one(3) {
		p.Domains = []string{"www.example.test", "*.test", "*.example.test", "x.y.test"}[:1+d.IntN(4)]
		p.Answers = map[Answer]string{}
		for range d.IntN(4) {
			p.Answers[Answer{hostMAC, d.unmapped(p)}] = pick(d, "*.test", "www.example.test", "gone.test")
		}
	}
	if d.one(2) {
		var list prefixList
		for range d.IntN(12) {
			list = append(list, PrefixPolicy{Prefix: d.prefix(p, d.one(2)), Ended: d.one(4)})
		}
		p.Lists = list
	}
	if d.one(4) {
		policy := pick(d, abi.PolicyDirect, abi.PolicyTor, abi.PolicyBlock)
		p.Devices = map[config.MAC]DevicePolicy{hostMAC: {policy, d.one(4), d.then()}}
	}
	if !d.one(4) { // or nearly all sources would be foreign
		for _, prefix := range []string{"192.168.1.0/24", "fd00:1::/64", "8.0.0.0/16", "2600:0:86dd::/48"} {
			subnet := plan.LocalSubnet{Prefix: netip.MustParsePrefix(prefix), Index: lanIndex}
			p.Local = append(p.Local, subnet)
		}
	}
	for range d.IntN(12) {
		subnet := plan.LocalSubnet{Prefix: d.prefix(p, d.one(2)), Index: pick(d, 0, lanIndex, lanIndex, guestIndex, otherIndex)}
		p.Local = append(p.Local, subnet)
	}
	for range d.IntN(4) {
		p.Addrs = append(p.Addrs, d.unmapped(p))
	}
	// The map has one entry for an address, the model looks at both lists.
	for range d.IntN(2) {
		if a := d.unmapped(p); !slices.Contains(p.Addrs, a) {
			p.Broadcasts = append(p.Broadcasts, a)
		}
	}
	for range pick(d, 0, 0, 1, 3) {
		mask := d.Uint32()
		p.Exempt = append(p.Exempt, config.Mark{Value: d.Uint32() & mask, Mask: mask})
	}
	if !d.one(4) {
		const instance = 4 // bits of the part of each tor
		p.Onion4 = netip.PrefixFrom(d.address(p, true), 1+d.IntN(32-instance)).Masked()
		p.Onion6 = netip.PrefixFrom(d.address(p, false), 1+d.IntN(128-instance)).Masked()
	}
	return p
}

// nest returns prefixes around one address, so many of them ended that those behind them
// may not be found.
func (d dice) nest(p *Policy, policy abi.Policy) []PrefixPolicy {
	a := d.address(p, d.one(2))
	var out []PrefixPolicy
	for range 4 + d.IntN(5) {
		prefix := netip.PrefixFrom(a, d.IntN(a.BitLen()+1)).Masked()
		out = append(out, PrefixPolicy{Prefix: prefix, Policy: pick(d, abi.PolicyDirect, policy), Ended: !d.one(6)})
	}
	return out
}

// then returns what is beneath a rule, mostly nothing.
func (d dice) then() *abi.Policy {
	if !d.one(4) {
		return nil
	}
	policy := pick(d, abi.PolicyTor, abi.PolicyBlock)
	return &policy
}

// unmapped returns an address that is not IPv6 in the form of IPv4: no router
// has one.
func (d dice) unmapped(p *Policy) netip.Addr { return d.address(p, d.one(2)).Unmap() }

func (d dice) port() uint16 {
	return pick(d, 53, 53, 853, 123, 443, 80, 5353, 0, uint16(d.Uint32()))
}

func (d dice) segment() segment {
	payload := make([]byte, pick(d, 0, 0, 1, 11, 12, 30, 64))
	switch d.IntN(8) {
	case 0, 1, 2:
		flags := pick(d, tcpSYN, tcpSYN|tcpACK, tcpACK, uint8(d.Uint32()))
		return tcp(d.port(), d.port(), flags, payload...)
	case 3, 4, 5:
		if d.one(3) {
			return udp(d.port(), 53, d.query()...)
		}
		return udp(d.port(), d.port(), payload...)
	case 6:
		kind := pick(d, 0, 3, 8, 128, 129, 135, uint8(d.Uint32()))
		return icmp(pick[uint8](d, protoICMP, protoICMPv6), kind, d.port())
	default:
		return raw(uint8(d.Uint32()), payload...)
	}
}

// query asks for a name that matters, or nearly, with a byte or two changed now
// and then.
func (d dice) query() []byte {
	name := pick(d, "lan", "x.lan", "x.local", "x.internal", "x.localdomain", "localhost", "x.home", "arpa", "x.arpa", ".",
		"use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com", "www.example.test", "lan.test", "b._dns-sd._udp.")
	if d.one(2) {
		a := netip.MustParseAddr(pick(d, special...))
		name = arpa(d.edge(netip.PrefixFrom(a, d.IntN(a.BitLen()+1))).String())
		name = pick(d, "", "", "x.") + name[d.IntN(len(name)):]
	}
	if d.one(8) {
		name = strings.Repeat("a.", d.IntN(45)) + name
	}
	name = strings.ReplaceAll(strings.TrimLeft(name, "."), "..", ".")
	query := dnsAsk(name, pick(d, dns.TypeA, dns.TypePTR, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeTXT))
	for range pick(d, 0, 0, 0, 1, 2) {
		query[d.IntN(len(query))] = pick(d, byte(d.Uint32()), 0, 1, 0xc0, 'A', '9')
	}
	return query
}

// packet returns an IP packet by the books.
func (d dice) packet(p *Policy) []byte {
	four := d.one(2)
	src, dst := d.source(p, four), d.address(p, four)
	return ip(src.String(), dst.String(), d.segment(), d.parts(four)...)
}

func (d dice) parts(four bool) []part {
	if four {
		parts := []part{options(make([]byte, 4*pick(d, 0, 0, 0, 1, 10))...)}
		if d.one(4) {
			parts = append(parts, fragment4(pick[uint16](d, 0, 0, 1, 100, 0x1fff), d.one(2)))
		}
		return parts
	}
	var parts []part
	for range pick(d, 0, 0, 0, 1, 2, 5, 6, 7, 8) {
		if d.one(4) {
			parts = append(parts, fragment6(pick[uint16](d, 0, 0, 0, 1, 0x1fff), d.one(2)))
		} else {
			parts = append(parts, ext(pick[uint8](d, extHopByHop, extRouting, extDestination), pick(d, 0, 0, 1, 3)))
		}
	}
	return parts
}

// frame returns an Ethernet frame, one in four of them damaged.
func (d dice) frame(p *Policy) []byte {
	var tags []uint32
	for range pick(d, 0, 0, 0, 0, 0, 0, 1, 2, 3) {
		tags = append(tags, pick[uint32](d, 0x8100_0000, 0x88a8_0000, 0x8100_e000, 0x8100_0064))
	}
	frame := etherTo(pick(d, routerMAC, groupMAC), hostMAC, d.packet(p), tags...)
	if d.one(4) {
		frame = d.damage(frame)
	}
	return frame
}

// damage changes a few bytes, or the length.
func (d dice) damage(frame []byte) []byte {
	for range 1 + d.IntN(3) {
		switch d.IntN(4) {
		case 0:
			frame = frame[:14+d.IntN(len(frame)-13)]
		case 1:
			frame = append(frame, make([]byte, d.IntN(40))...)
		default:
			frame[12+d.IntN(len(frame)-12)] = pick(d, byte(d.Uint32()), 0, 0xff, extFragment, protoUDP)
		}
	}
	return frame
}
