package model

import (
	"net/netip"

	"github.com/torbpf/torbpf/internal/config"
)

// Layer3 says what a frame turned out to be.
type Layer3 int

// The kinds of frames.
const (
	NotIP Layer3 = iota // ARP, LLDP, …
	IPv4
	IPv6
	Malformed // a header cannot be read to its end
	OtherVLAN // belongs to a VLAN device above this interface
)

// Fragment says which part of a datagram a packet is.
type Fragment int

// The parts of a datagram. An IPv6 packet with a fragment header is one even
// if the header says that it is whole (RFC 6946).
const (
	Whole Fragment = iota
	First          // its ports can be read
	Later          // its ports were in the first
)

// Packet is what the classifier knows of a packet. Fields that the packet
// lacks are zero.
type Packet struct {
	Layer3   Layer3
	Src, Dst netip.Addr // Is4 for IPv4
	Protocol uint8      // of layer 4, behind any extension headers
	Fragment Fragment
	// SrcPort and DstPort are those of TCP and UDP; ICMP echo has its
	// identifier in both.
	SrcPort, DstPort uint16
	TCPFlags         uint8
	Query            Query // of a whole UDP datagram to port 53
	ICMPType         uint8
	Mark             uint32 // the whole fwmark
	// MAC is the sender's; zero without an Ethernet header.
	MAC config.MAC
}

// Metadata is what the kernel knows of a frame beside its bytes.
type Metadata struct {
	// Protocol is the EtherType by which the kernel hands the packet on.
	Protocol uint16
	// Tagged says that a VLAN tag with the number VLAN was taken off.
	Tagged bool
	VLAN   uint16
	Mark   uint32
}

// IP protocol numbers and TCP flags that the classifier knows.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	tcpSYN = 0x02
	tcpACK = 0x10
)

// isICMP says whether the packet is ICMP of its own family.
func (k Packet) isICMP() bool {
	return k.Layer3 == IPv4 && k.Protocol == protoICMP || k.Layer3 == IPv6 && k.Protocol == protoICMPv6
}

// isHousekeeping says whether the router answers the packet on the link alone,
// whatever its source: membership, router and neighbour discovery, and DHCP.
func (k Packet) isHousekeeping() bool {
	if k.Layer3 == IPv4 {
		return k.Protocol == protoUDP && k.DstPort == 67
	}
	return k.Protocol == protoICMPv6 && (k.ICMPType >= 130 && k.ICMPType <= 137 || k.ICMPType == 143)
}

// isDNS says whether the packet shows port 53. A later fragment shows nothing.
func (k Packet) isDNS() bool { return k.showsPort(53) }

// isEncryptedDNS says whether the packet shows the port of DNS over TLS or QUIC.
func (k Packet) isEncryptedDNS() bool { return k.showsPort(853) }

func (k Packet) showsPort(port uint16) bool {
	return (k.Protocol == protoUDP || k.Protocol == protoTCP) && k.Fragment != Later && k.DstPort == port
}

// hidesPort says whether the packet may be a part of TCP or UDP: of later fragments an
// extension header may hide even that.
func (k Packet) hidesPort() bool {
	return k.Fragment != Whole && (k.Protocol == protoTCP || k.Protocol == protoUDP || isExtension(k.Protocol))
}

// begins says whether the packet asks for something new, rather than carrying
// on a connection or answering one.
func (k Packet) begins() bool {
	return k.Protocol != protoTCP || k.TCPFlags&(tcpSYN|tcpACK) == tcpSYN
}
