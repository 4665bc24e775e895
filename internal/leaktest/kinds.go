package leaktest

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// kinds makes the packets that one device sends in one round. Source ports differ
// from round to round: conntrack would carry on what it has once redirected, and
// hide that nothing redirects any more.
type kinds struct {
	node  *testnet.Node
	round int
	out   []Probe
}

// portRounds is after how many rounds source ports come again: the device then
// goes on with flows that conntrack knows.
const portRounds = 40

// from is a source port of this round, of a thousand.
func (k *kinds) from(src netip.Addr, n int) netip.AddrPort {
	return at(src, uint16(10000+1000*(k.round%portRounds)+n%1000))
}

func (k *kinds) add(group Group, packet []byte, format string, args ...any) {
	k.out = append(k.out, Probe{
		Name: fmt.Sprintf(format, args...), Group: group,
		forged: group == GroupForged, frame: testnet.ToGateway(k.node, packet), packet: packet,
	})
}

// Probes returns one packet of every kind that we know of which device n could send
// and Tor cannot carry, or which would only reach the WAN by a hole.
func Probes(n *testnet.Node, round int) []Probe {
	k := &kinds{node: n, round: round}
	for _, src := range []netip.Addr{n.IPv4, n.ULA, n.IPv6} {
		k.datagrams(src)
		k.fragments(src)
		k.protocols(src)
		k.segments(src)
		k.queries(src)
		k.groups(src)
	}
	k.discovery()
	k.headers()
	k.forgeries()
	k.frames()
	return k.out
}

// elsewhere are destinations beyond the router, of the family of an address:
// public ones, the ISP's end of the WAN, private and reserved ones.
func elsewhere(src netip.Addr) []netip.Addr {
	if src.Is4() {
		return []netip.Addr{
			testnet.Web4, testnet.Other4, testnet.WANISP4, testnet.Resolver4,
			netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("172.16.9.9"), netip.MustParseAddr("192.168.99.1"),
			netip.MustParseAddr("100.64.1.1"), netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("169.254.7.7"),
			netip.MustParseAddr("239.255.255.250"), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("240.1.1.1"),
		}
	}
	return []netip.Addr{
		testnet.Web6, testnet.Other6, testnet.WANISP6, testnet.Resolver6,
		netip.MustParseAddr("fd99::1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("64:ff9b::3314:50"),
		netip.MustParseAddr("fe80::7"), netip.MustParseAddr("ff0e::1"), netip.MustParseAddr("ff05::1:3"),
	}
}

// routerAddrs are the router's own addresses of the family of an address.
func routerAddrs(src netip.Addr) []netip.Addr {
	if src.Is4() {
		return []netip.Addr{testnet.LANRouter4, testnet.WANRouter4}
	}
	return []netip.Addr{testnet.LANRouter6, testnet.LANRouterULA, testnet.WANRouter6}
}

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

// datagrams: UDP, QUIC, NTP, STUN, WireGuard, DNS by other names, and DNS from port
// 53, which looks like an answer.
func (k *kinds) datagrams(src netip.Addr) {
	for _, dst := range elsewhere(src) {
		for _, port := range []uint16{testnet.PortEcho, 123, testnet.PortHTTPS, 853, 1900, 3478, 5353, 51820} {
			group := GroupUDP
			if port == testnet.PortHTTPS {
				group = GroupQUIC
			}
			k.add(group, testnet.UDPDatagram(k.from(src, int(port)), at(dst, port), []byte("stray")), "udp %v > %v:%d", src, dst, port)
		}
		k.add(GroupICMP, testnet.ICMPEcho(src, dst, uint16(k.round), 1), "ping %v > %v", src, dst)
		k.add(GroupDNS, testnet.UDPDatagram(at(src, testnet.PortDNS), at(dst, 5300), []byte("stray")), "udp from 53 %v > %v", src, dst)
	}
}

// fragments: datagrams, SYNs and DNS queries in pieces, to others and to the
// router, and a later piece alone.
func (k *kinds) fragments(src netip.Addr) {
	pieces := func(name string, dst netip.Addr, packet []byte, id int) {
		for i, fragment := range testnet.Fragments(packet, 16, uint16(id)) {
			k.add(GroupFragments, fragment, "fragment %d of %s %v > %v", i, name, src, dst)
		}
	}
	for i, dst := range append(routerAddrs(src), elsewhere(src)...) {
		id := 1000*(k.round%portRounds) + 10*i
		pieces("udp", dst, testnet.UDPDatagram(k.from(src, 1), at(dst, testnet.PortEcho), make([]byte, 64)), id)
		pieces("dns", dst, testnet.UDPDatagram(k.from(src, 2), at(dst, testnet.PortDNS), Query("fragmented."+testnet.Zone)), id+1)
		pieces("syn", dst, testnet.TCPSegment(k.from(src, 3), at(dst, testnet.PortHTTP), testnet.FlagSYN, 1, 0, make([]byte, 32)), id+2)
		alone := testnet.Fragments(testnet.UDPDatagram(k.from(src, 4), at(dst, testnet.PortEcho), make([]byte, 64)), 16, uint16(id+3))
		k.add(GroupFragments, alone[2], "later fragment alone %v > %v", src, dst)
	}
}

// protocols: everything that is neither TCP nor UDP, among it tunnels.
func (k *kinds) protocols(src netip.Addr) {
	for _, dst := range elsewhere(src) {
		for _, proto := range []uint8{
			unix.IPPROTO_IPIP, unix.IPPROTO_IPV6, unix.IPPROTO_GRE, unix.IPPROTO_ESP, unix.IPPROTO_AH,
			unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE, unix.IPPROTO_DCCP, 89, 253,
		} {
			k.add(GroupProtocols, testnet.IPPacket(src, dst, proto, make([]byte, 32)), "protocol %d %v > %v", proto, src, dst)
		}
	}
}

// segments: TCP without a connection; to what is public it may go to Tor, which
// must be all.
func (k *kinds) segments(src netip.Addr) {
	const urgent = 1 << 5
	for _, dst := range elsewhere(src) {
		for i, flags := range []uint8{
			testnet.FlagSYN, testnet.FlagACK, testnet.FlagRST, testnet.FlagFIN | testnet.FlagACK, testnet.FlagSYN | testnet.FlagACK,
			testnet.FlagSYN | testnet.FlagFIN, testnet.FlagFIN | testnet.FlagPSH | urgent, 0,
		} {
			group := GroupFlags
			if flags == testnet.FlagSYN {
				group = GroupTCP
			}
			k.add(group, testnet.TCPSegment(k.from(src, 910+i), at(dst, testnet.PortEcho), flags, 1000, 1000, nil), "tcp flags %#x %v > %v", flags, src, dst)
		}
	}
}

// asked are the addresses at which a device may ask for names: the router in all
// its guises, the ISP's resolver, a public one, a private one, and everybody on the
// link at once.
func asked(src netip.Addr) []netip.Addr {
	if src.Is4() {
		return append(routerAddrs(src), testnet.Resolver4, testnet.PublicResolver4,
			netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("192.168.50.255"),
			netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("224.0.0.1"))
	}
	return append(routerAddrs(src), testnet.Resolver6, testnet.PublicResolver6,
		netip.MustParseAddr("fd99::53"), netip.MustParseAddr("fe80::ff:fe00:5001"), netip.MustParseAddr("ff02::1"))
}

// queries are DNS by datagrams, whole and in fragments. The name says whom it was
// put to.
func (k *kinds) queries(src netip.Addr) {
	for i, server := range asked(src) {
		name := fmt.Sprintf("%s-to-%s.%s", k.node.Name, label(server), testnet.Zone)
		k.add(GroupDNS, testnet.UDPDatagram(k.from(src, 500+i), at(server, testnet.PortDNS), Query(name)), "dns %v > %v", src, server)
		pieces := testnet.UDPDatagram(k.from(src, 550+i), at(server, testnet.PortDNS), Query("pieces-"+name))
		for j, p := range testnet.Fragments(pieces, 24, uint16(600+i+k.round)) {
			k.add(GroupFragments, p, "fragment %d of a query %v > %v", j, src, server)
		}
	}
}

// label makes an address part of a name.
func label(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "_").Replace(a.String())
}

// Query is a DNS question for the address of a name.
func Query(name string) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for start, i := 0, 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '.' {
			b = append(append(b, byte(i-start)), name[start:i]...)
			start = i + 1
		}
	}
	return append(b, 0, 0, 1, 0, 1)
}
