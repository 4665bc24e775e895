package model

import (
	"encoding/binary"
	"net/netip"
)

// EtherTypes (IEEE 802) and IPv6 extension headers (RFC 8200).
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8

	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60
)

// Limits within which headers are read: two VLAN tags, six extension headers.
const (
	maxTags       = 2
	maxExtensions = 6
)

// Parse reads a frame; ethernet says whether it begins with such a header.
// Of bytes behind the headers only a DNS question counts; the lengths that IP
// states play no part.
func Parse(frame []byte, ethernet bool, m Metadata) Packet {
	var k Packet
	if m.Tagged && m.VLAN != 0 {
		k.Layer3 = OtherVLAN
	} else if ethernet {
		k = parseEthernet(frame, m)
		if len(frame) >= 14 {
			k.MAC = [6]byte(frame[6:12])
		}
	} else {
		k = parseNetwork(frame, m.Protocol)
	}
	k.Mark = m.Mark
	return k
}

func isTag(etherType uint16) bool { return etherType == etherVLAN || etherType == etherQinQ }

// parseEthernet reads on behind tags that only carry a priority. The kernel
// does the same, and hands on by what it found: if it takes the packet for IP,
// no tag in the data makes it another VLAN's.
func parseEthernet(frame []byte, m Metadata) Packet {
	if len(frame) < 14 {
		return Packet{Layer3: Malformed}
	}
	tags := 0
	if m.Tagged {
		tags = 1
	}
	etherType, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for isTag(etherType) {
		if tags == maxTags || len(rest) < 4 {
			return Packet{Layer3: Malformed}
		}
		if id := binary.BigEndian.Uint16(rest) & 0xfff; id != 0 && isTag(m.Protocol) {
			return Packet{Layer3: OtherVLAN}
		}
		etherType, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
		tags++
	}
	kernelSaysIP := m.Protocol == etherIPv4 || m.Protocol == etherIPv6
	if kernelSaysIP && etherType != m.Protocol {
		return Packet{Layer3: Malformed}
	}
	return parseNetwork(rest, etherType)
}

func parseNetwork(data []byte, etherType uint16) Packet {
	switch etherType {
	case etherIPv4:
		return parseIPv4(data)
	case etherIPv6:
		return parseIPv6(data)
	default:
		return Packet{Layer3: NotIP}
	}
}

func parseIPv4(data []byte) Packet {
	if len(data) < 20 || data[0]>>4 != 4 {
		return Packet{Layer3: Malformed}
	}
	length := int(data[0]&0xf) * 4
	if length < 20 || len(data) < length {
		return Packet{Layer3: Malformed}
	}
	k := Packet{
		Layer3:   IPv4,
		Src:      netip.AddrFrom4([4]byte(data[12:16])),
		Dst:      netip.AddrFrom4([4]byte(data[16:20])),
		Protocol: data[9],
	}
	flags := binary.BigEndian.Uint16(data[6:])
	switch {
	case flags&0x1fff != 0:
		k.Fragment = Later
	case flags&0x2000 != 0:
		k.Fragment = First
	}
	return parseTransport(k, data[length:])
}

// parseIPv6 refuses addresses that embed an IPv4 address in the form of
// abi.h: the maps would take them for that address.
func parseIPv6(data []byte) Packet {
	if len(data) < 40 || data[0]>>4 != 6 {
		return Packet{Layer3: Malformed}
	}
	k := Packet{
		Layer3: IPv6,
		Src:    netip.AddrFrom16([16]byte(data[8:24])),
		Dst:    netip.AddrFrom16([16]byte(data[24:40])),
	}
	if k.Src.Is4In6() || k.Dst.Is4In6() {
		return Packet{Layer3: Malformed}
	}
	next, rest := data[6], data[40:]
	for n := 0; isExtension(next) && k.Fragment != Later; n++ {
		if n == maxExtensions || len(rest) < 8 {
			return Packet{Layer3: Malformed}
		}
		length := 8 + int(rest[1])*8
		if next == extFragment {
			length = 8
			k.Fragment = First
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				k.Fragment = Later
			}
		}
		if len(rest) < length {
			return Packet{Layer3: Malformed}
		}
		next, rest = rest[0], rest[length:]
	}
	k.Protocol = next
	return parseTransport(k, rest)
}

func isExtension(next uint8) bool {
	return next == extHopByHop || next == extRouting || next == extFragment || next == extDestination
}

// parseTransport needs eight bytes of TCP, UDP and ICMP, which every first
// fragment has, and all twenty of a whole TCP segment.
func parseTransport(k Packet, data []byte) Packet {
	if k.Fragment == Later {
		return k
	}
	switch k.Protocol {
	case protoTCP, protoUDP, protoICMP, protoICMPv6:
		if len(data) < 8 {
			return Packet{Layer3: Malformed}
		}
	default:
		return k
	}
	switch k.Protocol {
	case protoTCP, protoUDP:
		k.SrcPort, k.DstPort = binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])
	default:
		k.ICMPType = data[0]
		if isEcho(k.Protocol, data[0]) {
			k.SrcPort = binary.BigEndian.Uint16(data[4:])
			k.DstPort = k.SrcPort
		}
	}
	if k.Protocol == protoUDP && k.isDNS() && k.Fragment == Whole {
		k.Query = parseQuery(data)
	}
	if k.Protocol == protoTCP && k.Fragment == Whole {
		if len(data) < 20 {
			return Packet{Layer3: Malformed}
		}
		k.TCPFlags = data[13]
	}
	return k
}

// isEcho tells echo requests and replies of ICMP and ICMPv6.
func isEcho(protocol, kind uint8) bool {
	if protocol == protoICMP {
		return kind == 8 || kind == 0
	}
	return kind == 128 || kind == 129
}
