package abi

import (
	"net/netip"
	"slices"
	"testing"
)

// of says which of addrs the shortcuts of the settings take for a LAN's, in the way of
// plainly_of_lan() of bpf/match.h.
func (s *DatapathSettings) of(addrs ...string) (lan []string) {
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		w := words(addr.As16())
		if addr.Is4() && slices.ContainsFunc(s.Sources4[:], func(e DatapathShortcut4) bool { return w[3]&e.MaskBe == e.AddrBe }) ||
			addr.Is6() && slices.ContainsFunc(s.Sources6[:], func(e DatapathShortcut6) bool {
				return w[0]&e.MaskBe[0] == e.AddrBe[0] && w[1]&e.MaskBe[1] == e.AddrBe[1]
			}) {
			lan = append(lan, text)
		}
	}
	return lan
}

func TestSourcesAreShortenedOnlyWhereNothingElseIs(t *testing.T) {
	const lan, vpn = 2, 3
	subnets := make(map[netip.Prefix]DatapathLocalSubnet)
	for prefix, ifindex := range map[string]uint32{
		"192.168.50.0/24": lan, "192.168.0.0/16": 0, "10.0.0.0/8": lan, "10.9.0.0/16": vpn,
		"fd50::/64": lan, "fd60::/48": lan, "fd60:0:0:1::/64": vpn, "fd70::/80": lan, "fe80::/64": lan, "::/31": lan,
	} {
		subnets[netip.MustParsePrefix(prefix)] = DatapathLocalSubnet{Ifindex: ifindex}
	}
	var s DatapathSettings
	s.Shorten(Contents{Local: subnets, IsLAN: func(ifindex uint32) bool { return ifindex == lan }})
	got := s.of("192.168.50.11", "192.168.51.11", "10.8.0.1", "10.9.0.1", "0.0.0.0", "0.0.0.1",
		"fd50::11", "fd50:0:0:1::11", "fd60::11", "fd60:0:0:1::11", "fd70::11", "fe80::11", "::", "::1")
	if want := []string{"192.168.50.11", "fd50::11"}; !slices.Equal(got, want) {
		t.Errorf("taken for a LAN's without a look-up: %v, want %v", got, want)
	}
}

// More subnets than there is room for are looked up; nothing matches what is not in use.
func TestOneSubnetTooMany(t *testing.T) {
	subnets := make(map[netip.Prefix]DatapathLocalSubnet)
	var hosts []string
	for _, third := range []string{"1", "2", "3", "4", "5"} {
		subnets[netip.MustParsePrefix("192.168."+third+".0/24")] = DatapathLocalSubnet{Ifindex: 2}
		hosts = append(hosts, "192.168."+third+".9")
	}
	var s DatapathSettings
	s.Shorten(Contents{Local: subnets, IsLAN: func(uint32) bool { return true }})
	if got := s.of(append(hosts, "0.0.0.1", "1.0.0.0", "0:1::", "100::")...); !slices.Equal(got, hosts[:len(s.Sources4)]) {
		t.Errorf("taken for a LAN's: %v", got)
	}
}

// A prefix sets the bits of all bytes that its addresses begin with, and no other.
func TestPrefixesSetTheBitsOfTheirFirstBytes(t *testing.T) {
	for prefix, want := range map[string][]uint32{
		"51.21.0.0/16": {51}, "192.168.1.1/32": {192}, "240.0.0.0/4": {240, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255},
		"fc00::/7": {0xfc, 0xfd}, "::/96": {0}, "2600::/12": {0x26}, "2001:db8::/32": {0x20},
	} {
		var s DatapathSettings
		s.Shorten(Contents{Destinations: []netip.Prefix{netip.MustParsePrefix(prefix)}})
		var got []uint32
		for bit := range uint32(256) {
			if s.RuleBits[bit/32]>>(bit%32)&1 == 1 {
				got = append(got, bit)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s sets %x, want %x", prefix, got, want)
		}
	}
	var all DatapathSettings
	all.Shorten(Contents{Destinations: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	for _, word := range all.RuleBits {
		if word != ^uint32(0) {
			t.Errorf("all of IPv4 sets %x", all.RuleBits)
		}
	}
}
