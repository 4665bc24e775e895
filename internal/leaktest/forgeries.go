package leaktest

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// headers: IPv4 options and IPv6 extension headers before the datagram, and headers
// that end too soon.
func (k *kinds) headers() {
	n := k.node
	udp := testnet.UDPDatagram(k.from(n.IPv6, 905), at(testnet.Web6, testnet.PortEcho), []byte("stray"))[40:]
	for _, next := range []uint8{unix.IPPROTO_HOPOPTS, unix.IPPROTO_DSTOPTS, unix.IPPROTO_ROUTING, 135, 140} {
		header := []byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0} // padding, or an empty routing header
		k.add(GroupUDP, testnet.IPPacket(n.IPv6, testnet.Web6, next, append(header, udp...)), "udp behind extension header %d", next)
	}
	plain := testnet.UDPDatagram(k.from(n.IPv4, 906), at(testnet.Web4, testnet.PortEcho), []byte("stray"))
	k.add(GroupUDP, withOptions(plain, 1, 1, 1, 0), "udp with ip options")
	hop := testnet.WANISP4.As4()
	k.add(GroupUDP, withOptions(plain, 131, 7, 4, hop[0], hop[1], hop[2], hop[3], 0), "udp with a loose source route")
	k.add(GroupUDP, testnet.IPPacket(n.IPv4, testnet.Web4, unix.IPPROTO_UDP, nil), "ipv4 header without its body")
	k.add(GroupTCP, testnet.IPPacket(n.IPv6, testnet.Web6, unix.IPPROTO_TCP, nil), "ipv6 header without its body")
}

// withOptions gives a plain packet IPv4 options, a multiple of four bytes.
func withOptions(plain []byte, options ...byte) []byte {
	packet := append(append(append([]byte{}, plain[:20]...), options...), plain[20:]...)
	header := 20 + len(options)
	packet[0] = 0x40 | byte(header/4)
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	binary.BigEndian.PutUint16(packet[10:], 0)
	binary.BigEndian.PutUint16(packet[10:], headerChecksum(packet[:header]))
	return packet
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

// forgeries: source addresses that are not the device's own.
func (k *kinds) forgeries() {
	for _, src := range []netip.Addr{
		testnet.WANRouter4, testnet.LANRouter4, netip.MustParseAddr("192.168.60.77"), netip.MustParseAddr("8.8.4.4"), netip.MustParseAddr("0.0.0.0"),
		testnet.WANRouter6, testnet.LANRouter6, netip.MustParseAddr("2a0d:60::77"), netip.MustParseAddr("2001:4860::8844"), netip.IPv6Unspecified(),
	} {
		dst := testnet.Web4
		if src.Is6() {
			dst = testnet.Web6
		}
		k.add(GroupForged, testnet.UDPDatagram(k.from(src, 920), at(dst, testnet.PortEcho), []byte("stray")), "udp from forged %v", src)
		k.add(GroupForged, testnet.TCPSegment(k.from(src, 921), at(dst, testnet.PortEcho), testnet.FlagSYN, 1, 0, nil), "syn from forged %v", src)
		k.add(GroupForged, testnet.ICMPEcho(src, dst, uint16(k.round), 1), "ping from forged %v", src)
		k.add(GroupForged, testnet.UDPDatagram(k.from(src, 922), at(k.gateway(src), testnet.PortDNS), Query("forged."+testnet.Zone)), "dns from forged %v", src)
		k.add(GroupForged, testnet.TCPSegment(k.from(src, 923), at(k.gateway(src), testnet.PortDNS), testnet.FlagSYN, 1, 0, nil), "dns by tcp from forged %v", src)
		k.add(GroupForged, testnet.TCPSegment(k.from(src, 924), at(k.gateway(src), testnet.PortHTTP), testnet.FlagSYN, 1, 0, nil), "syn to the router from forged %v", src)
		k.add(GroupForged, testnet.UDPDatagram(k.from(src, 925), at(k.gateway(src), 4711), []byte("stray")), "udp to the router from forged %v", src)
		k.add(GroupForged, testnet.ICMPEcho(src, k.gateway(src), uint16(k.round), 2), "ping to the router from forged %v", src)
		k.complaints(src, dst)
		for _, group := range k.everybody(src) {
			k.add(GroupForged, testnet.ICMPEcho(src, group, uint16(k.round), 3), "ping to %v from forged %v", group, src)
			k.add(GroupForged, testnet.UDPDatagram(k.from(src, 926), at(group, 4711), []byte("stray")), "udp to %v from forged %v", group, src)
		}
	}
}

// complaints: what a router complains of to whom it says it is from, before it asks any
// firewall whether it may be forwarded: no hops left, too long, options that are wrong.
func (k *kinds) complaints(src, dst netip.Addr) {
	datagram := func(n int, payload []byte) []byte {
		return testnet.UDPDatagram(k.from(src, n), at(dst, testnet.PortEcho), payload)
	}
	k.add(GroupForged, withHops(datagram(927, []byte("stray")), 1), "udp with one hop left from forged %v", src)
	k.add(GroupForged, withHops(testnet.TCPSegment(k.from(src, 928), at(dst, testnet.PortEcho), testnet.FlagSYN, 1, 0, nil), 1), "syn with one hop left from forged %v", src)
	if src.Is4() {
		const record, broken = 7, 1 // a record route that ends before it begins
		k.add(GroupForged, withOptions(datagram(929, []byte("stray")), record, broken, 4, 0), "udp with broken options from forged %v", src)
	}
}

func (k *kinds) gateway(src netip.Addr) netip.Addr {
	if src.Is4() {
		return testnet.LANRouter4
	}
	return testnet.LANRouter6
}

// everybody are addresses on the link that the router hears, beside its own.
func (k *kinds) everybody(src netip.Addr) []netip.Addr {
	if src.Is4() {
		return []netip.Addr{netip.MustParseAddr("192.168.50.255"), netip.MustParseAddr("224.0.0.1")}
	}
	return []netip.Addr{netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::ff:fe00:5001")}
}

// everyFrame of the packets so far goes out in other frames as well.
const everyFrame = 16

// frames: with a VLAN tag of id 0, which is no VLAN at all, with two of them, with
// those of a VLAN that is not there, and to the broadcast address.
func (k *kinds) frames() {
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	plain := k.out
	for i, p := range plain {
		if i%everyFrame != k.round%everyFrame {
			continue
		}
		everybody := append(append([]byte{}, broadcast...), p.frame[6:]...)
		for _, f := range []struct {
			name  string
			frame []byte
		}{
			{"vlan 0", testnet.TagVLAN(p.frame, 0)},
			{"vlan 5", testnet.TagVLAN(p.frame, 5)},
			{"service vlan 0", testnet.TagService(p.frame, 0)},
			{"service vlan 0, vlan 0", testnet.TagService(testnet.TagVLAN(p.frame, 0), 0)},
			{"service vlan 0, vlan 5", testnet.TagService(testnet.TagVLAN(p.frame, 5), 0)},
			{"service vlan 5, vlan 0", testnet.TagService(testnet.TagVLAN(p.frame, 0), 5)},
			{"vlan 0, vlan 0", testnet.TagVLAN(testnet.TagVLAN(p.frame, 0), 0)},
			{"broadcast", everybody},
		} {
			k.out = append(k.out, Probe{Name: f.name + ": " + p.Name, Group: GroupFrames, forged: p.forged, frame: f.frame, packet: p.packet})
		}
	}
}
