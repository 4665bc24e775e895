package testnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is one captured frame.
type Packet struct {
	Time    time.Time      // by the kernel's wall clock
	Inbound bool           // it arrived at the captured interface: on the WAN, the router sent it
	Proto   string         // "tcp", "udp", "icmp", "icmpv6", "igmp", "arp", "ip-47", "ether-88cc"
	Src     netip.AddrPort // port 0 where there is none
	Dst     netip.AddrPort
	Length  int // of the frame on the wire

	HopLimit uint8 // or time to live
	TCPFlags uint8 // FIN 1, SYN 2, RST 4, PSH 8, ACK 16
	ICMPType uint8 // of "icmp" and "icmpv6"
	ICMPCode uint8
	Fragment bool   // any fragment; ports only in the first
	Payload  []byte // the first bytes after the transport header
}

// TCP flags of Packet and TCPSegment.
const (
	FlagFIN = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
)

// String is one line as test failures print it.
func (p Packet) String() string {
	direction := "out"
	if p.Inbound {
		direction = "in"
	}
	s := fmt.Sprintf("%s %s %s > %s length %d", direction, p.Proto, p.Src, p.Dst, p.Length)
	switch p.Proto {
	case "tcp":
		s += fmt.Sprintf(" flags %#02x", p.TCPFlags)
	case "icmp", "icmpv6":
		s += fmt.Sprintf(" type %d code %d", p.ICMPType, p.ICMPCode)
	}
	if q, ok := p.Quoted(); ok {
		s += fmt.Sprintf(" about %s %v > %v", q.Proto, q.Src, q.Dst)
	}
	if p.Fragment {
		s += " fragment"
	}
	return s
}

// housekeeping is what the router says on the link for itself: ARP, neighbour
// discovery and multicast membership, from addresses of the link and to such.
func (p Packet) housekeeping() bool {
	src, dst := p.Src.Addr(), p.Dst.Addr()
	switch p.Proto {
	case "arp":
		return true
	case "igmp":
		return (WAN4.Contains(src) || src.IsUnspecified()) && dst.IsMulticast() && p.HopLimit <= 1
	case "icmpv6":
		own := WAN6.Contains(src) || src.IsLinkLocalUnicast() || src.IsUnspecified()
		return own && (p.membership6() || p.discovery6())
	}
	return false
}

// membership6 tells whether this is of multicast listener discovery, and can leave no link.
func (p Packet) membership6() bool {
	kind := p.ICMPType >= 130 && p.ICMPType <= 132 || p.ICMPType == 143
	return kind && p.Dst.Addr().IsMulticast() && p.HopLimit <= 1
}

// discovery6 tells whether this is of neighbour discovery, and to somebody on the WAN's link.
func (p Packet) discovery6() bool {
	dst := p.Dst.Addr()
	near := dst.IsLinkLocalMulticast() || dst.IsLinkLocalUnicast() || WAN6.Contains(dst)
	return p.ICMPType >= 133 && p.ICMPType <= 137 && near && p.HopLimit == 255
}

// Quoted is the packet that an ICMP error is about, as far as the error repeats it.
func (p Packet) Quoted() (Packet, bool) {
	switch {
	case p.Proto == "icmp" && (p.ICMPType == 3 || p.ICMPType == 5 || p.ICMPType == 11 || p.ICMPType == 12):
		var q Packet
		q.parseIPv4(p.Payload)
		return q, true
	case p.Proto == "icmpv6" && p.ICMPType < 128:
		var q Packet
		q.parseIPv6(p.Payload)
		return q, true
	}
	return Packet{}, false
}

// parseFrame reads an Ethernet frame of which only the first bytes may be present.
func parseFrame(frame []byte, length int) Packet {
	p := Packet{Length: length}
	if len(frame) < 14 {
		p.Proto = "runt"
		return p
	}
	etherType := binary.BigEndian.Uint16(frame[12:])
	body := frame[14:]
	switch etherType {
	case unix.ETH_P_IP:
		p.parseIPv4(body)
	case unix.ETH_P_IPV6:
		p.parseIPv6(body)
	case unix.ETH_P_ARP:
		p.Proto = "arp"
		p.Payload = slices.Clone(body)
	default:
		p.Proto = fmt.Sprintf("ether-%04x", etherType)
		p.Payload = slices.Clone(body)
	}
	return p
}

func (p *Packet) parseIPv4(b []byte) {
	if len(b) < 20 {
		p.Proto = "runt"
		return
	}
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	p.HopLimit = b[8]
	offset := binary.BigEndian.Uint16(b[6:])
	p.Fragment = offset&0x3fff != 0 // more fragments, or not the first
	header := min(int(b[0]&0x0f)*4, len(b))
	// The total length cuts off Ethernet padding; GSO frames above 64 KiB say 0.
	if total := int(binary.BigEndian.Uint16(b[2:])); total >= header && total < len(b) {
		b = b[:total]
	}
	p.parseTransport(b[9], src, dst, b[header:], offset&0x1fff == 0)
}

func (p *Packet) parseIPv6(b []byte) {
	if len(b) < 40 {
		p.Proto = "runt"
		return
	}
	src, _ := netip.AddrFromSlice(b[8:24])
	dst, _ := netip.AddrFromSlice(b[24:40])
	p.HopLimit = b[7]
	next, first := b[6], true
	b = b[40:]
	for len(b) >= 8 {
		size := int(b[1])*8 + 8
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
		case unix.IPPROTO_FRAGMENT:
			size = 8
			p.Fragment = true
			first = first && binary.BigEndian.Uint16(b[2:])&0xfff8 == 0
		default:
			p.parseTransport(next, src, dst, b, first)
			return
		}
		next = b[0]
		b = b[min(size, len(b)):]
		if !first {
			break
		}
	}
	p.parseTransport(next, src, dst, b, first)
}

func (p *Packet) parseTransport(proto uint8, src, dst netip.Addr, b []byte, first bool) {
	names := map[uint8]string{
		unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp",
		unix.IPPROTO_ICMPV6: "icmpv6", unix.IPPROTO_IGMP: "igmp",
	}
	var ok bool
	if p.Proto, ok = names[proto]; !ok {
		p.Proto = fmt.Sprintf("ip-%d", proto)
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if !first {
		p.Payload = slices.Clone(b)
		return
	}
	header := 0
	switch {
	case p.Proto == "tcp" && len(b) >= 20:
		header = int(b[12]>>4) * 4
		p.TCPFlags = b[13] & 0x3f
		p.setPorts(b)
	case p.Proto == "udp" && len(b) >= 8:
		header = 8
		p.setPorts(b)
	case (p.Proto == "icmp" || p.Proto == "icmpv6") && len(b) >= 8:
		header = 8
		p.ICMPType, p.ICMPCode = b[0], b[1]
	}
	p.Payload = slices.Clone(b[min(header, len(b)):])
}

func (p *Packet) setPorts(b []byte) {
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
}
