package testnet

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Frame builds an Ethernet frame.
func Frame(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	frame := append(append(make([]byte, 0, 14+len(payload)), dst...), src...)
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	return append(frame, payload...)
}

// TagVLAN puts an 802.1Q tag with the given id into a frame.
func TagVLAN(frame []byte, id uint16) []byte { return tag(frame, unix.ETH_P_8021Q, id) }

// TagService puts an 802.1ad service tag into a frame, the outer one of QinQ.
func TagService(frame []byte, id uint16) []byte { return tag(frame, unix.ETH_P_8021AD, id) }

func tag(frame []byte, etherType, id uint16) []byte {
	tagged := append(make([]byte, 0, len(frame)+4), frame[:12]...)
	tagged = binary.BigEndian.AppendUint16(tagged, etherType)
	tagged = binary.BigEndian.AppendUint16(tagged, id)
	return append(tagged, frame[12:]...)
}

// IPPacket builds an IPv4 or IPv6 packet, by the family of the addresses. It may
// carry any protocol and any payload, well-formed or not.
func IPPacket(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	var header []byte
	if src.Is4() {
		header = make([]byte, 20)
		header[0], header[8], header[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(header[2:], uint16(20+len(payload)))
		copy(header[12:], src.AsSlice())
		copy(header[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(header[10:], checksum(0, header))
	} else {
		header = make([]byte, 40)
		header[0], header[6], header[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
		copy(header[8:], src.AsSlice())
		copy(header[24:], dst.AsSlice())
	}
	return append(header, payload...)
}

// UDPDatagram builds an IP packet with a UDP datagram.
func UDPDatagram(src, dst netip.AddrPort, payload []byte) []byte {
	udp := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(udp, src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	udp = append(udp, payload...)
	sum := transportChecksum(src.Addr(), dst.Addr(), unix.IPPROTO_UDP, udp)
	if sum == 0 {
		sum = 0xffff // zero would mean none (RFC 768)
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return IPPacket(src.Addr(), dst.Addr(), unix.IPPROTO_UDP, udp)
}

// TCPSegment builds an IP packet with a TCP segment without options.
func TCPSegment(src, dst netip.AddrPort, flags uint8, seq, ack uint32, payload []byte) []byte {
	tcp := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 0xffff)
	tcp = append(tcp, payload...)
	binary.BigEndian.PutUint16(tcp[16:], transportChecksum(src.Addr(), dst.Addr(), unix.IPPROTO_TCP, tcp))
	return IPPacket(src.Addr(), dst.Addr(), unix.IPPROTO_TCP, tcp)
}

// ICMPEcho builds an echo request of the addresses' family.
func ICMPEcho(src, dst netip.Addr, id, seq uint16) []byte {
	icmp := make([]byte, 16)
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[6:], seq)
	if src.Is4() {
		icmp[0] = 8
		binary.BigEndian.PutUint16(icmp[2:], checksum(0, icmp))
		return IPPacket(src, dst, unix.IPPROTO_ICMP, icmp)
	}
	icmp[0] = 128
	binary.BigEndian.PutUint16(icmp[2:], transportChecksum(src, dst, unix.IPPROTO_ICMPV6, icmp))
	return IPPacket(src, dst, unix.IPPROTO_ICMPV6, icmp)
}

// Fragments splits an IP packet without options or extension headers into
// fragments that carry at most size bytes each; size is a multiple of 8.
func Fragments(packet []byte, size int, id uint16) [][]byte {
	var fragments [][]byte
	headerLen := 20
	if packet[0]>>4 == 6 {
		headerLen = 40
	}
	header, payload := packet[:headerLen], packet[headerLen:]
	for offset := 0; offset < len(payload); offset += size {
		end := min(offset+size, len(payload))
		more := end < len(payload)
		if headerLen == 20 {
			fragments = append(fragments, fragment4(header, payload[offset:end], offset, more, id))
		} else {
			fragments = append(fragments, fragment6(header, payload[offset:end], offset, more, id))
		}
	}
	return fragments
}

func fragment4(header, payload []byte, offset int, more bool, id uint16) []byte {
	h := append([]byte(nil), header...)
	field := uint16(offset / 8)
	if more {
		field |= 0x2000
	}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[4:], id)
	binary.BigEndian.PutUint16(h[6:], field)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], checksum(0, h))
	return append(h, payload...)
}

func fragment6(header, payload []byte, offset int, more bool, id uint16) []byte {
	h := append([]byte(nil), header...)
	ext := make([]byte, 8)
	ext[0] = h[6]
	field := uint16(offset)
	if more {
		field |= 1
	}
	binary.BigEndian.PutUint16(ext[2:], field)
	binary.BigEndian.PutUint32(ext[4:], uint32(id))
	h[6] = unix.IPPROTO_FRAGMENT
	binary.BigEndian.PutUint16(h[4:], uint16(len(ext)+len(payload)))
	return append(append(h, ext...), payload...)
}

// transportChecksum covers the pseudo header (RFC 793, RFC 8200 section 8.1).
func transportChecksum(src, dst netip.Addr, proto uint8, segment []byte) uint16 {
	sum := uint32(proto) + uint32(len(segment))
	sum = addWords(sum, src.AsSlice())
	sum = addWords(sum, dst.AsSlice())
	return checksum(sum, segment)
}

// checksum is the internet checksum (RFC 1071) on top of a partial sum.
func checksum(sum uint32, b []byte) uint16 {
	sum = addWords(sum, b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func addWords(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}
