package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// stray is a packet that a device may send and that Tor cannot carry, or that
// would only reach the WAN by a hole.
type stray struct {
	name   string
	packet []byte
}

// strays returns one of every kind we know of that device n could send. Each
// names itself: a leak shows which it was.
func strays(n *testnet.Node) []stray {
	var out []stray
	for _, src := range []netip.Addr{n.IPv4, n.ULA, n.IPv6} {
		out = append(out, strayDatagrams(src)...)
		out = append(out, strayFragments(src)...)
		out = append(out, strayProtocols(src)...)
		out = append(out, straySegments(src)...)
	}
	out = append(out, strayHeaders(n)...)
	return append(out, strayForgeries()...)
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

// strayDatagrams: UDP, QUIC, NTP, STUN, WireGuard, DNS by other names, and DNS
// from port 53, which looks like an answer.
func strayDatagrams(src netip.Addr) []stray {
	var out []stray
	for _, dst := range elsewhere(src) {
		for _, port := range []uint16{testnet.PortEcho, 123, testnet.PortHTTPS, 853, 1900, 3478, 5353, 51820} {
			out = append(out, stray{
				fmt.Sprintf("udp %v > %v:%d", src, dst, port),
				testnet.UDPDatagram(at(src, 40000+port%1000), at(dst, port), []byte("stray")),
			})
		}
		out = append(out,
			stray{fmt.Sprintf("ping %v > %v", src, dst), testnet.ICMPEcho(src, dst, 7, 1)},
			stray{fmt.Sprintf("udp from 53 %v > %v", src, dst), testnet.UDPDatagram(at(src, 53), at(dst, 5300), []byte("stray"))})
	}
	return out
}

// strayFragments: datagrams, pings, SYNs and DNS queries in pieces, to others and
// to the router, and a later piece alone.
func strayFragments(src netip.Addr) []stray {
	var out []stray
	add := func(name string, packet []byte, id uint16) {
		for i, fragment := range testnet.Fragments(packet, 16, id) {
			out = append(out, stray{fmt.Sprintf("fragment %d of %s", i, name), fragment})
		}
	}
	for i, dst := range append(routerAddrs(src), elsewhere(src)...) {
		id := uint16(1000 + 10*i)
		add(fmt.Sprintf("udp %v > %v", src, dst),
			testnet.UDPDatagram(at(src, 40001), at(dst, testnet.PortEcho), make([]byte, 64)), id)
		add(fmt.Sprintf("dns %v > %v", src, dst),
			testnet.UDPDatagram(at(src, 40002), at(dst, testnet.PortDNS), query("fragmented."+testnet.Zone)), id+1)
		add(fmt.Sprintf("syn %v > %v", src, dst),
			testnet.TCPSegment(at(src, 40003), at(dst, testnet.PortHTTP), testnet.FlagSYN, 1, 0, make([]byte, 32)), id+2)
		alone := testnet.Fragments(testnet.UDPDatagram(at(src, 40004), at(dst, testnet.PortEcho), make([]byte, 64)), 16, id+3)
		out = append(out, stray{fmt.Sprintf("later fragment alone %v > %v", src, dst), alone[2]})
	}
	return out
}

// query is a DNS question for the address of a name.
func query(name string) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for start, i := 0, 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '.' {
			b = append(append(b, byte(i-start)), name[start:i]...)
			start = i + 1
		}
	}
	return append(b, 0, 0, 1, 0, 1)
}

// strayProtocols: everything that is neither TCP nor UDP, among it tunnels.
func strayProtocols(src netip.Addr) []stray {
	var out []stray
	for _, dst := range elsewhere(src) {
		for _, proto := range []uint8{
			unix.IPPROTO_IPIP, unix.IPPROTO_IPV6, unix.IPPROTO_GRE, unix.IPPROTO_ESP, unix.IPPROTO_AH,
			unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE, unix.IPPROTO_DCCP, 89, 253,
		} {
			out = append(out, stray{fmt.Sprintf("protocol %d %v > %v", proto, src, dst),
				testnet.IPPacket(src, dst, proto, make([]byte, 32))})
		}
	}
	return out
}

// straySegments: TCP without a connection; to what is public it may go to Tor,
// which must be all.
func straySegments(src netip.Addr) []stray {
	var out []stray
	for _, dst := range elsewhere(src) {
		for i, flags := range []uint8{
			testnet.FlagSYN, testnet.FlagACK, testnet.FlagRST, testnet.FlagFIN | testnet.FlagACK, testnet.FlagSYN | testnet.FlagACK, 0,
		} {
			from := at(src, uint16(41000+i))
			out = append(out, stray{fmt.Sprintf("tcp flags %#x %v > %v", flags, src, dst),
				testnet.TCPSegment(from, at(dst, testnet.PortEcho), flags, 1000, 1000, nil)})
		}
	}
	return out
}

// strayHeaders: IPv4 options and IPv6 extension headers before the datagram, and
// headers that end too soon.
func strayHeaders(n *testnet.Node) []stray {
	var out []stray
	udp := testnet.UDPDatagram(at(n.IPv6, 40005), at(testnet.Web6, testnet.PortEcho), []byte("stray"))[40:]
	for _, next := range []uint8{unix.IPPROTO_HOPOPTS, unix.IPPROTO_DSTOPTS, unix.IPPROTO_ROUTING, 135, 140} {
		header := []byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0} // padding, or an empty routing header
		out = append(out, stray{fmt.Sprintf("udp behind extension header %d", next),
			testnet.IPPacket(n.IPv6, testnet.Web6, next, append(header, udp...))})
	}
	plain := testnet.UDPDatagram(at(n.IPv4, 40006), at(testnet.Web4, testnet.PortEcho), []byte("stray"))
	options := append(append(append([]byte{}, plain[:20]...), 1, 1, 1, 0), plain[20:]...)
	options[0] = 0x46
	binary.BigEndian.PutUint16(options[2:], uint16(len(options)))
	binary.BigEndian.PutUint16(options[10:], 0)
	binary.BigEndian.PutUint16(options[10:], headerChecksum(options[:24]))
	return append(out,
		stray{"udp with ip options", options},
		stray{"ipv4 header without its body", testnet.IPPacket(n.IPv4, testnet.Web4, unix.IPPROTO_UDP, nil)},
		stray{"ipv6 header without its body", testnet.IPPacket(n.IPv6, testnet.Web6, unix.IPPROTO_TCP, nil)})
}

// headerChecksum is the internet checksum of an IPv4 header (RFC 1071).
func headerChecksum(header []byte) uint16 {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// strayForgeries: source addresses that are not the device's own.
func strayForgeries() []stray {
	var out []stray
	for _, src := range []netip.Addr{
		testnet.WANRouter4, testnet.LANRouter4, netip.MustParseAddr("192.168.60.77"), netip.MustParseAddr("8.8.4.4"), netip.MustParseAddr("0.0.0.0"),
		testnet.WANRouter6, testnet.LANRouter6, netip.MustParseAddr("2a0d:60::77"), netip.MustParseAddr("2001:4860::8844"), netip.IPv6Unspecified(),
	} {
		dst := testnet.Web4
		if src.Is6() {
			dst = testnet.Web6
		}
		out = append(out,
			stray{fmt.Sprintf("udp from forged %v", src), testnet.UDPDatagram(at(src, 42000), at(dst, testnet.PortEcho), []byte("stray"))},
			stray{fmt.Sprintf("syn from forged %v", src), testnet.TCPSegment(at(src, 42001), at(dst, testnet.PortEcho), testnet.FlagSYN, 1, 0, nil)},
			stray{fmt.Sprintf("ping from forged %v", src), testnet.ICMPEcho(src, dst, 8, 1)})
	}
	return out
}

// sendStrays sends each once, some in other frames as well: with a VLAN tag of
// id 0, which is no VLAN at all, and to the broadcast address.
func sendStrays(t testing.TB, n *testnet.Node) {
	t.Helper()
	all := strays(n)
	for _, s := range all {
		if err := testnet.SendRaw(n, s.packet); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for i := 0; i < len(all); i += 7 {
		etherType := uint16(unix.ETH_P_IP)
		if all[i].packet[0]>>4 == 6 {
			etherType = unix.ETH_P_IPV6
		}
		for _, frame := range [][]byte{
			testnet.TagVLAN(testnet.Frame(n.GatewayMAC, n.MAC, etherType, all[i].packet), 0),
			testnet.TagVLAN(testnet.Frame(n.GatewayMAC, n.MAC, etherType, all[i].packet), 5),
			testnet.Frame(broadcast, n.MAC, etherType, all[i].packet),
		} {
			if err := n.SendFrame("eth0", frame); err != nil {
				t.Fatalf("%s: %v", all[i].name, err)
			}
		}
	}
}

// checkNoLeaks ends a capture and reports all on it that is not Tor's.
func checkNoLeaks(t testing.TB, capture *testnet.Capture) {
	t.Helper()
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
	leaks := capture.NonTor()
	for i, p := range leaks {
		if i == 20 {
			t.Errorf("and %d more", len(leaks)-i)
			break
		}
		t.Errorf("on the WAN: %v", p)
	}
}
