package leaktest

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// withHops gives a packet as many hops.
func withHops(packet []byte, n byte) []byte {
	if packet[0]>>4 == 6 {
		packet[7] = n
		return packet
	}
	header := packet[:int(packet[0]&0x0f)*4]
	packet[8] = n
	binary.BigEndian.PutUint16(packet[10:], 0)
	binary.BigEndian.PutUint16(packet[10:], headerChecksum(header))
	return packet
}

// groups: datagrams to groups of each scope, with hops enough to get there and with none to
// spare.
func (k *kinds) groups(src netip.Addr) {
	to := []string{"224.0.0.251", "224.0.1.1", "232.1.1.1", "239.1.2.3", "239.255.255.250", "239.255.9.9"}
	if src.Is6() {
		to = []string{"ff02::fb", "ff12::9", "ff03::9", "ff05::c", "ff08::9", "ff0e::9", "ff3e::9"}
	}
	for _, dst := range to {
		for _, hops := range []byte{1, 4, 64, 255} {
			group := netip.MustParseAddr(dst)
			for _, port := range []uint16{1900, 5353} {
				packet := testnet.UDPDatagram(k.from(src, 930), at(group, port), []byte("stray"))
				k.add(GroupUDP, withHops(packet, hops), "udp %v > %v:%d, %d hops", src, group, port, hops)
			}
			if src.Is4() {
				packet := testnet.IPPacket(src, group, unix.IPPROTO_IGMP, make([]byte, 8))
				k.add(GroupProtocols, withHops(packet, hops), "igmp %v > %v, %d hops", src, group, hops)
			}
		}
	}
}

// discovery: what is about a link, to who is on none of ours.
func (k *kinds) discovery() {
	src := k.node.IPv6
	for _, dst := range []netip.Addr{testnet.Web6, testnet.WANISP6, netip.MustParseAddr("fd99::1"), netip.MustParseAddr("ff0e::1")} {
		for _, kind := range []byte{130, 131, 132, 133, 134, 135, 136, 137, 143} {
			for _, hops := range []byte{1, 64, 255} {
				packet := testnet.IPPacket(src, dst, unix.IPPROTO_ICMPV6, append([]byte{kind}, make([]byte, 31)...))
				k.add(GroupICMP, withHops(packet, hops), "icmpv6 type %d %v > %v, %d hops", kind, src, dst, hops)
			}
		}
	}
}
