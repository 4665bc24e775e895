package router

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// What a packet has where the question does not say.
const (
	anySourcePort = 40000
	anyName       = "example.com"
)

// nobody is the sender's hardware address where it is not known; the bit for locally
// administered ones is set.
var nobody = config.MAC{0x02, 0, 0, 0, 0, 0x01}

// chooseLAN finds the LAN that the packet comes by.
func (x *explained) chooseLAN() (plan.LAN, error) {
	var names []string
	var behind []plan.LAN
	for _, l := range x.plan.LANs {
		names = append(names, l.Name)
		if l.Name == x.LAN {
			return l, nil
		}
		if slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(x.From) }) {
			behind = append(behind, l)
		}
	}
	switch {
	case x.LAN == "" && (x.From.IsLoopback() || slices.Contains(x.plan.LocalAddrs, x.From)):
		return plan.LAN{}, config.Invalid("%s is this machine's own address: ask about what it sends itself with --own instead of --from", x.From)
	case len(x.plan.LANs) == 0:
		return plan.LAN{}, config.Invalid("no device is on Tor: torbpf attach INTERFACE; for what this machine itself sends ask with --own instead of --from")
	case x.LAN != "":
		return plan.LAN{}, config.Invalid("--lan %s: that is no interface that torbpf is attached to, which are %s", x.LAN, strings.Join(names, ", "))
	case len(behind) == 1:
		return behind[0], nil
	case len(x.plan.LANs) == 1:
		return x.plan.LANs[0], nil // which knows the source or not
	case len(behind) > 1:
		return plan.LAN{}, config.Invalid("%s may come by any of %s: name one with --lan", x.From, strings.Join(names, ", "))
	default:
		return plan.LAN{}, config.Invalid("no LAN has the source %s: name the one that it comes by (%s) with --lan", x.From, strings.Join(names, ", "))
	}
}

// complete fills in what the question leaves open, and refuses what makes no packet.
func (x *explained) complete() error {
	if x.Name != "" {
		x.To, x.Protocol, x.DstPort = x.lan.Addr4, unix.IPPROTO_UDP, config.PortDNS
		if x.From.Is6() {
			x.To = x.lan.Addr6
		}
		if !x.To.IsValid() {
			return config.Invalid("%s has no address of the family of %s, so nobody asks it for %s there", x.lan.Name, x.From, x.Name)
		}
	}
	if x.From.Is4() != x.To.Is4() {
		return config.Invalid("%s and %s are not of one family: no packet has both", x.From, x.To)
	}
	if x.Protocol == config.ProtocolICMP && x.To.Is6() {
		x.Protocol = unix.IPPROTO_ICMPV6
	}
	service := config.Service{Protocol: x.Protocol}
	switch {
	case service.HasPorts() && x.DstPort == 0:
		return config.Invalid("which port? name it with --dport")
	case !service.HasPorts() && (x.DstPort != 0 || x.SrcPort != 0):
		return config.Invalid("protocol %s has no ports that are looked at", x.protocolName())
	case service.HasPorts():
		x.SrcPort = cmp.Or(x.SrcPort, anySourcePort)
	}
	if _, known := dns.StringToType[cmp.Or(x.Type, "A")]; !known {
		return config.Invalid("--type %s: no DNS record is called so, such as A, AAAA or HTTPS", x.Type)
	}
	x.findMAC()
	return nil
}

// findMAC says who is assumed to have sent it where nobody is known to.
func (x *explained) findMAC() {
	if x.lan.Ethernet && x.MAC == (config.MAC{}) {
		x.MAC, x.assumed = nobody, true
	}
}

// asksDNS tells whether the packet is a query by UDP.
func (x *explained) asksDNS() bool {
	return x.Protocol == unix.IPPROTO_UDP && x.DstPort == config.PortDNS
}

// asksFor is the name in a query.
func (x *explained) asksFor() string { return cmp.Or(x.Name, anyName) }

// flow is that of the packet, as the device sees it.
func (x *explained) flow() plan.Flow {
	return plan.Flow{Protocol: x.Protocol, Src: netip.AddrPortFrom(x.From, x.SrcPort), Dst: netip.AddrPortFrom(x.To, x.DstPort)}
}

func (x *explained) packet() Packet {
	p := Packet{
		LAN: x.lan.Name, From: x.From.String(), To: x.To.String(), Protocol: x.protocolName(),
		SrcPort: x.SrcPort, DstPort: x.DstPort, Mark: x.Mark,
	}
	if x.lan.Ethernet && !x.assumed {
		p.MAC = x.MAC.String()
	}
	if x.asksDNS() {
		p.Query = x.asksFor() + " " + cmp.Or(x.Type, "A")
	}
	return p
}

// protocolName is the protocol as rules have it, without a port.
func (x *explained) protocolName() string { return config.ProtocolName(x.service().Protocol) }

// service is what a rule for the packet's port, or protocol, names.
func (x *explained) service() config.Service {
	s := config.Service{Protocol: x.Protocol, Port: x.DstPort}
	if s.Protocol == unix.IPPROTO_ICMPV6 && x.To.Is6() {
		s.Protocol = config.ProtocolICMP
	}
	return s
}

// frame is the packet with an Ethernet header, as test runs of programs take it.
func (x *explained) frame() ([]byte, error) {
	segment, err := x.segment()
	if err != nil {
		return nil, err
	}
	station := x.station()
	frame := append(station[:], x.MAC[:]...)
	if x.From.Is4() {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, x.Protocol, 0, 0}
		ip = append(append(ip, x.From.AsSlice()...), x.To.AsSlice()...)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(segment)))
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(append(append(frame, 0x08, 0x00), ip...), segment...), nil
	}
	ip := []byte{0x60, 0, 0, 0, 0, 0, x.Protocol, 64}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(segment)))
	ip = append(append(ip, x.From.AsSlice()...), x.To.AsSlice()...)
	return append(append(append(frame, 0x86, 0xdd), ip...), segment...), nil
}

// station is whom the frame is for: the router, or the group that the destination is.
func (x *explained) station() [6]byte {
	b := x.To.AsSlice()
	last := len(b)
	switch {
	case x.To == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || slices.Contains(x.plan.Broadcasts, x.To):
		return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case x.To.IsMulticast() && x.To.Is4():
		return [6]byte{0x01, 0x00, 0x5e, b[last-3] & 0x7f, b[last-2], b[last-1]}
	case x.To.IsMulticast():
		return [6]byte{0x33, 0x33, b[last-4], b[last-3], b[last-2], b[last-1]}
	}
	return x.lan.MAC // zeros without an Ethernet header, which the kernel takes for its own there
}

// segment is what follows the network header: what begins a connection, a query, a ping.
// Checksums are left out, since nobody looks at them.
func (x *explained) segment() ([]byte, error) {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, x.SrcPort), x.DstPort)
	switch x.Protocol {
	case unix.IPPROTO_TCP:
		const headerWords, syn = 5, 0x02
		return append(ports, 0, 0, 0, 1, 0, 0, 0, 0, headerWords<<4, syn, 0xff, 0xff, 0, 0, 0, 0), nil
	case unix.IPPROTO_UDP:
		var message []byte
		if x.asksDNS() {
			query := new(dns.Msg).SetQuestion(dns.Fqdn(x.asksFor()), dns.StringToType[cmp.Or(x.Type, "A")])
			var err error
			if message, err = query.Pack(); err != nil {
				return nil, config.Invalid("ask for %s: %w", x.Name, err)
			}
		}
		const header = 8
		ports = binary.BigEndian.AppendUint16(ports, uint16(header+len(message)))
		return append(append(ports, 0, 0), message...), nil
	case unix.IPPROTO_ICMP:
		return []byte{8, 0, 0, 0, 0, 1, 0, 1}, nil // echo request
	case unix.IPPROTO_ICMPV6:
		return []byte{128, 0, 0, 0, 0, 1, 0, 1}, nil
	default:
		return make([]byte, 8), nil // of which nothing is read
	}
}
