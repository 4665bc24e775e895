package abi

import (
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// Contents is what the maps hold that settings spare look-ups of.
type Contents struct {
	Router       []netip.Addr                         // local_addrs
	Local        map[netip.Prefix]DatapathLocalSubnet // local4_prefixes and local6_prefixes
	Destinations []netip.Prefix                       // dst4_prefixes and dst6_prefixes
	IsLAN        func(ifindex uint32) bool            // whether it is in lans
}

// Shorten writes the shortcuts past these maps, which must not change from then on.
func (s *DatapathSettings) Shorten(c Contents) {
	for _, addr := range c.Router {
		setBit(&s.RouterBits, routerBit(addr))
	}
	for prefix := range c.Local {
		setFirstBytes(&s.LocalBits, prefix)
	}
	for _, prefix := range c.Destinations {
		setFirstBytes(&s.RuleBits, prefix)
	}
	s.shortenSources(plainSubnets(c.Local, c.IsLAN))
}

// routerBit is router_bit() of bpf/match.h.
func routerBit(addr netip.Addr) uint32 {
	const factor = 0x9e3779b1
	var folded uint32
	for _, word := range words(addr.As16()) {
		folded ^= word
	}
	return folded * factor >> 24
}

// setFirstBytes sets the bits of all bytes with which an address in a prefix begins.
func setFirstBytes(bits *[8]uint32, prefix netip.Prefix) {
	first := uint32(prefix.Masked().Addr().AsSlice()[0])
	for i := range uint32(1) << max(0, 8-prefix.Bits()) {
		setBit(bits, first+i)
	}
}

func setBit(bits *[8]uint32, bit uint32) { bits[bit/32] |= 1 << (bit % 32) }

// shortenSources writes subnets of LANs as far as there is room.
func (s *DatapathSettings) shortenSources(plain []netip.Prefix) {
	for i := range s.Sources4 { // nothing matches these
		s.Sources4[i] = DatapathShortcut4{AddrBe: 1}
		s.Sources6[i] = DatapathShortcut6{AddrBe: [2]uint32{1, 1}}
	}
	n4, n6 := 0, 0
	for _, prefix := range plain {
		addr, mask := words(prefix.Addr().As16()), maskOf(prefix)
		switch {
		case prefix.Addr().Is4() && n4 < len(s.Sources4):
			s.Sources4[n4] = DatapathShortcut4{AddrBe: addr[3], MaskBe: mask[3]}
			n4++
		case prefix.Addr().Is6() && prefix.Bits() <= 64 && n6 < len(s.Sources6):
			s.Sources6[n6] = DatapathShortcut6{AddrBe: [2]uint32(addr[:2]), MaskBe: [2]uint32(mask[:2])}
			n6++
		}
	}
}

// plainSubnets are those of LANs with no longer prefix inside that is no LAN's. IPv6 addresses
// that are link-local or unspecified are not judged by these maps, as sources.
func plainSubnets(subnets map[netip.Prefix]DatapathLocalSubnet, isLAN func(uint32) bool) []netip.Prefix {
	var plain []netip.Prefix
	for prefix, subnet := range subnets {
		if !isLAN(subnet.Ifindex) || prefix.Contains(netip.IPv6Unspecified()) || prefix.Contains(netip.MustParseAddr("fe80::")) {
			continue
		}
		mixed := false
		for other, what := range subnets {
			mixed = mixed || (other.Bits() > prefix.Bits() && prefix.Overlaps(other) && !isLAN(what.Ifindex))
		}
		if !mixed {
			plain = append(plain, prefix)
		}
	}
	slices.SortFunc(plain, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return plain
}

// maskOf is the netmask of a prefix, that of IPv4 in the last word.
func maskOf(prefix netip.Prefix) [4]uint32 {
	const all = 128
	return words([16]byte(net.CIDRMask(all-prefix.Addr().BitLen()+prefix.Bits(), all)))
}

// words are the __be32 of an address.
func words(addr [16]byte) (out [4]uint32) {
	for i := range out {
		out[i] = binary.NativeEndian.Uint32(addr[4*i:])
	}
	return out
}
