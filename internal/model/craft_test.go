package model

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// The packets of the tests, built from the inside out:
//
//	ether(ip("192.168.1.10", "50.0.0.1", tcp(40000, 443, tcpSYN)))
//
// All is by the books unless a part says otherwise, checksums included.

// segment is a transport header with its payload, not yet checksummed.
type segment struct {
	protocol uint8
	bytes    []byte
	sumAt    int // offset of the checksum field, -1 for none
}

func tcp(src, dst uint16, flags uint8, payload ...byte) segment {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint32(b[4:], 0x11223344)
	if flags&tcpACK != 0 {
		binary.BigEndian.PutUint32(b[8:], 0x55667788)
	}
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 64240)
	return segment{protoTCP, append(b, payload...), 16}
}

func udp(src, dst uint16, payload ...byte) segment {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return segment{protoUDP, append(b, payload...), 6}
}

func icmp(protocol, kind uint8, id uint16) segment {
	b := []byte{kind, 0, 0, 0, byte(id >> 8), byte(id), 0, 1, 'p', 'i', 'n', 'g'}
	return segment{protocol, b, 2}
}

func ping() segment  { return icmp(protoICMP, 8, 77) }
func ping6() segment { return icmp(protoICMPv6, 128, 77) }

func raw(protocol uint8, payload ...byte) segment { return segment{protocol, payload, -1} }

// dnsQuery asks for the A record of "a.test", recursion desired.
func dnsQuery() []byte {
	return []byte("\xab\xcd\x01\x20\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01")
}

// dnsAsk asks for a name, recursion desired, with EDNS as resolvers do.
func dnsAsk(name string, qtype uint16) []byte {
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype).SetEdns0(1232, false)
	packed, err := query.Pack()
	if err != nil {
		panic(err) // the tests' names all pack
	}
	return packed
}

// changed returns a message with one byte set.
func changed(message []byte, at int, to byte) []byte {
	message[at] = to
	return message
}

// part changes an IP packet while it is made.
type part func(*network)

type network struct {
	options    []byte // IPv4
	fragment   uint16 // IPv4: flags and offset
	extensions []extension
	ttl        uint8
	padding    int // bytes behind the end that IP states
}

// extension is an IPv6 extension header without its first byte.
type extension struct {
	kind uint8
	tail []byte
}

func options(b ...byte) part { return func(n *network) { n.options = b } }
func hops(n uint8) part      { return func(o *network) { o.ttl = n } }
func padded(bytes int) part  { return func(n *network) { n.padding = bytes } }

// fragment4 says which part of an IPv4 datagram the packet is.
func fragment4(offset uint16, more bool) part {
	return func(n *network) {
		n.fragment = offset
		if more {
			n.fragment |= 0x2000
		}
	}
}

// ext adds an option header of the given length in units of eight bytes, behind
// the first eight.
func ext(kind uint8, units int) part {
	tail := make([]byte, 7+8*units)
	tail[0] = byte(units)
	tail[1], tail[2] = 1, byte(4+8*units) // PadN
	return func(n *network) { n.extensions = append(n.extensions, extension{kind, tail}) }
}

// fragment6 adds a fragment header; the offset counts units of eight bytes.
func fragment6(offset uint16, more bool) part {
	tail := make([]byte, 7)
	field := offset << 3
	if more {
		field |= 1
	}
	binary.BigEndian.PutUint16(tail[1:], field)
	copy(tail[3:], "\x00\x00\x12\x34")
	return func(n *network) { n.extensions = append(n.extensions, extension{extFragment, tail}) }
}

// ip makes a packet of the family of its addresses.
func ip(src, dst string, s segment, parts ...part) []byte {
	n := network{ttl: 64}
	for _, p := range parts {
		p(&n)
	}
	from, to := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	body := slices.Clone(s.bytes)
	if s.sumAt >= 0 && len(body) >= s.sumAt+2 {
		sum := transportSum(from, to, s.protocol, body)
		binary.BigEndian.PutUint16(body[s.sumAt:], sum)
	}
	if from.Is4() {
		return n.ip4(from, to, s.protocol, body)
	}
	return n.ip6(from, to, s.protocol, body)
}

func (n network) ip4(from, to netip.Addr, protocol uint8, body []byte) []byte {
	b := make([]byte, 20, 64)
	b = append(b, n.options...)
	b[0] = 0x40 | byte(len(b)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(body)))
	binary.BigEndian.PutUint16(b[4:], 0x4242)
	binary.BigEndian.PutUint16(b[6:], n.fragment)
	b[8], b[9] = n.ttl, protocol
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], fold(sumBytes(b)))
	return append(append(b, body...), make([]byte, n.padding)...)
}

func (n network) ip6(from, to netip.Addr, protocol uint8, body []byte) []byte {
	b := make([]byte, 40, 128)
	b[0] = 0x60
	b[7] = n.ttl
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	next := 6 // where the number of the next header belongs
	for _, e := range n.extensions {
		b[next] = e.kind
		next = len(b)
		b = append(append(b, 0), e.tail...)
	}
	b[next] = protocol
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return append(b, make([]byte, n.padding)...)
}

// The sender's MAC, and the one of the loopback device, which the programs run
// on: frames to any other are for another host.
var (
	hostMAC   = [6]byte{0x02, 0, 0, 0, 0, 0x0a}
	routerMAC = [6]byte{}
	groupMAC  = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// ether puts a packet into a frame from the host to the router.
func ether(packet []byte, tags ...uint32) []byte {
	return etherTo(routerMAC, hostMAC, packet, tags...)
}

// etherTo also adds VLAN tags, each an EtherType and a number: 0x8100_0064.
func etherTo(dst, src [6]byte, packet []byte, tags ...uint32) []byte {
	b := append(dst[:], src[:]...)
	for _, tag := range tags {
		b = binary.BigEndian.AppendUint32(b, tag)
	}
	etherType := uint16(etherIPv4)
	if packet[0]>>4 == 6 {
		etherType = etherIPv6
	}
	b = binary.BigEndian.AppendUint16(b, etherType)
	return append(b, packet...)
}

// etherRaw makes a frame of any EtherType.
func etherRaw(etherType uint16, payload ...byte) []byte {
	b := append(routerMAC[:], hostMAC[:]...)
	return append(binary.BigEndian.AppendUint16(b, etherType), payload...)
}

// The Internet checksum (RFC 1071), bit by bit as the RFC has it.

func sumBytes(b []byte) uint32 {
	var sum uint32
	for i, v := range b {
		if i%2 == 0 {
			sum += uint32(v) << 8
		} else {
			sum += uint32(v)
		}
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// transportSum returns what belongs into the checksum field of a segment whose
// field is zero, or 0 if the segment with its checksum is right. ICMP over IPv4
// has no pseudo header (RFC 792); ICMPv6 has (RFC 4443).
func transportSum(from, to netip.Addr, protocol uint8, body []byte) uint16 {
	sum := sumBytes(body)
	if protocol != protoICMP {
		sum += sumBytes(from.AsSlice()) + sumBytes(to.AsSlice()) + uint32(len(body)) + uint32(protocol)
	}
	return fold(sum)
}
