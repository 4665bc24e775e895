package model

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// ownRow is a packet of the router's own that is about to leave by an uplink.
type ownRow struct {
	name  string
	frame []byte
	class abi.Verdict
	other uint32 // bits of the mark that are not ours
	// Whether it leaves in each of the modes that judge.
	all, exec bool
}

// reason is what client mode says of it.
func (r ownRow) reason() abi.Reason {
	if r.all && r.exec {
		return abi.ReasonNone
	}
	return abi.ReasonClientGuard
}

const (
	own6       = "2600:9::1" // the router's, at the uplink
	ownMark    = 0x8400      // exempts what the router itself sends
	near4      = "192.168.178.20"
	near6      = "fd99::20"
	neighbour6 = "fe80::77"
	routers6   = "ff02::2"
	onLink6    = "2600:9::7" // a neighbour's, at the uplink
	otherLink6 = "2600:a::7" // at another interface
)

func ownRows() []ownRow {
	return append(append(ownClassRows(), ownIPv4Rows()...), ownIPv6Rows()...)
}

// ownClassRows are told by their class alone.
func ownClassRows() []ownRow {
	var rows []ownRow
	for _, d := range []struct {
		name        string
		frame       []byte
		near, onion bool
	}{
		{name: "TCP", frame: ether(ip(wan4, web4, tcp(40000, 443, tcpSYN)))},
		{name: "TCP, IPv6", frame: ether(ip(own6, web6, tcp(40000, 443, tcpSYN)))},
		{name: "UDP", frame: ether(ip(wan4, web4, udp(40000, 443)))},
		{name: "a fragment", frame: ether(ip(wan4, web4, raw(protoUDP, 1, 2, 3), fragment4(9, false)))},
		{name: "a ping, IPv6", frame: ether(ip(own6, web6, ping6()))},
		{name: "to a private address", frame: ether(ip(wan4, near4, tcp(40000, 443, tcpSYN))), near: true},
		{name: "to a private address, IPv6", frame: ether(ip(own6, near6, udp(40000, 7))), near: true},
		{name: "to a link-local address", frame: ether(ip(wan4, "169.254.7.7", udp(40000, 7))), near: true},
		{name: "to a link-local address, IPv6", frame: ether(ip(link6, "fe80::99", udp(40000, 7), fragment6(0, true))), near: true},
		{name: "to a group of the link", frame: ether(ip(wan4, mdns4, udp(5353, 5353))), near: true},
		{name: "to a group of the link, IPv6", frame: ether(ip(own6, "ff02::fb", udp(5353, 5353))), near: true},
		{name: "to a group of the link, IPv6, not a permanent one", frame: ether(ip(own6, "ff12::9", udp(40000, 9))), near: true},
		{name: "to a group further on", frame: ether(ip(wan4, "224.0.1.1", udp(40000, 9)))},
		{name: "to a group further on, IPv6", frame: ether(ip(own6, "ff0e::1234", udp(40000, 1900)))},
		{name: "to a group further on, of the site, IPv6", frame: ether(ip(own6, "ff05::c", udp(40000, 1900)))},
		{name: "to a group further on, with one hop", frame: ether(ip(wan4, "224.0.1.1", udp(40000, 9), hops(1))), near: true},
		{name: "to a group further on, with one hop, IPv6", frame: ether(ip(own6, "ff0e::1234", udp(40000, 9), hops(1))), near: true},
		{name: "to a host, with one hop", frame: ether(ip(wan4, web4, udp(40000, 9), hops(1)))},
		{name: "SSDP", frame: ether(ip(wan4, "239.255.255.250", udp(40000, 1900), hops(4))), near: true},
		{name: "SSDP with more hops than it takes", frame: ether(ip(wan4, "239.255.255.250", udp(40000, 1900), hops(5)))},
		{name: "SSDP's group, another port", frame: ether(ip(wan4, "239.255.255.250", udp(40000, 1901), hops(4)))},
		{name: "SSDP's port, another group", frame: ether(ip(wan4, "239.255.255.251", udp(40000, 1900), hops(4)))},
		{name: "a later fragment to SSDP's group", frame: ether(ip(wan4, "239.255.255.250", raw(protoUDP, 0, 0, 7, 108, 0, 8, 0, 0), fragment4(9, false), hops(4)))},
		{name: "to all", frame: ether(ip(wan4, "255.255.255.255", udp(40000, 9))), near: true},
		{name: "to an onion", frame: ether(ip(wan4, onion4, tcp(40000, 443, tcpSYN))), near: true, onion: true},
		{name: "to an onion, IPv6", frame: ether(ip(own6, onion6, tcp(40000, 443, tcpSYN))), near: true, onion: true},
	} {
		for class := abi.Verdict(0); class < 16; class++ {
			direct := class == abi.VerdictDirect || class == abi.VerdictInbound
			local := class == abi.VerdictLocal && d.near
			rows = append(rows, ownRow{
				name:  fmt.Sprintf("own: %s, class %s", d.name, class),
				frame: d.frame, class: class,
				all:  (direct || local) && !d.onion,
				exec: class == abi.VerdictNone || class == abi.VerdictDirect || (direct || local) && !d.onion,
			})
		}
	}
	packet := ip(wan4, web4, udp(40000, 7))
	plain := ether(packet)
	return append(rows,
		ownRow{name: "own: exempt mark", frame: plain, other: ownMark | 0x35, all: true, exec: true},
		ownRow{name: "own: a mark that is exempt for LANs", frame: plain, other: exemptMark, exec: true},
		ownRow{name: "own: a mark that is not exempt", frame: plain, other: 0x35, exec: true},
		ownRow{name: "own: tor with an exempt mark", frame: plain, other: ownMark, class: abi.VerdictTor},
		ownRow{name: "own: exempt mark to an onion", frame: ether(ip(wan4, onion4, udp(40000, 7))), other: ownMark, exec: true},
		ownRow{name: "own: local to a public subnet of another interface", frame: ether(ip(wan4, "51.7.0.9", udp(40000, 7))), class: abi.VerdictLocal},
		ownRow{name: "own: ARP", frame: etherRaw(0x0806, make([]byte, 46)...), all: true, exec: true},
		ownRow{name: "own: ARP, direct", frame: etherRaw(0x0806, make([]byte, 46)...), class: abi.VerdictDirect, all: true, exec: true},
		ownRow{name: "own: EAPOL", frame: etherRaw(0x888e, make([]byte, 46)...), all: true, exec: true},
		ownRow{name: "own: LLDP", frame: etherRaw(0x88cc, make([]byte, 46)...), all: true, exec: true},
		ownRow{name: "own: PPPoE, discovery", frame: etherRaw(0x8863, make([]byte, 46)...), all: true, exec: true},
		ownRow{name: "own: PPPoE, a session of the kernel's", frame: etherRaw(0x8864, make([]byte, 46)...), all: true, exec: true},
		ownRow{name: "own: MPLS", frame: etherRaw(0x8847, packet...), exec: true},
		ownRow{name: "own: a bridged frame", frame: etherRaw(0x6558, plain...), exec: true},
		ownRow{name: "own: a length", frame: etherRaw(0x002e, packet...), exec: true},
		ownRow{name: "own: IPv6 that is IPv4", frame: etherRaw(0x86dd, append(packet, make([]byte, 40)...)...), exec: true},
		ownRow{name: "own: a tag of a VLAN", frame: ether(packet, 0x8100_0005), exec: true},
		ownRow{name: "own: a tag of no VLAN", frame: ether(packet, 0x8100_0000), exec: true},
		ownRow{name: "own: a service tag", frame: ether(packet, 0x88a8_0000), exec: true},
		ownRow{name: "own: a tag of no VLAN, tor", frame: ether(packet, 0x8100_0000), class: abi.VerdictTor},
		ownRow{name: "own: ARP, tor", frame: etherRaw(0x0806, make([]byte, 46)...), class: abi.VerdictTor},
	)
}

// ownIPv4Rows are of no class: most machines could not stay on their network without. The
// socket of a test run is none that a connection is begun to, so what looks like an answer
// is made up; TestInboundGoesOnWithoutNftables of internal/e2e has true ones.
func ownIPv4Rows() []ownRow {
	const synAck = tcpSYN | tcpACK
	row := func(name string, all bool, packet []byte) ownRow {
		return ownRow{name: "own: " + name, frame: ether(packet), all: all, exec: true}
	}
	return []ownRow{
		row("DHCP", true, ip("0.0.0.0", "255.255.255.255", udp(68, 67))),
		row("DHCP, renewal", true, ip(wan4, near4, udp(68, 67))),
		row("DHCP, renewal of a server elsewhere", false, ip(wan4, web4, udp(68, 67))),
		row("DHCP by TCP", false, ip(wan4, web4, tcp(68, 67, tcpSYN))),
		row("DHCP from another port", false, ip(wan4, web4, udp(69, 67))),
		row("DHCP of a server", false, ip(wan4, web4, udp(67, 68))),
		row("DHCP in a first fragment", false, ip(wan4, web4, udp(68, 67), fragment4(0, true))),
		row("what looks like DHCP in a later fragment", false, ip(wan4, web4, raw(protoUDP, 0, 68, 0, 67, 0, 8, 0, 0), fragment4(9, false))),
		row("IGMP", true, ip(wan4, "224.0.0.22", raw(protoIGMP, make([]byte, 8)...), options(0x94, 4, 0, 0), hops(1))),
		row("IGMP of a group further on", true, ip(wan4, "224.0.1.1", raw(protoIGMP, make([]byte, 8)...), hops(1))),
		row("IGMP to a group further on", false, ip(wan4, "224.0.1.1", raw(protoIGMP, make([]byte, 8)...), hops(2))),
		row("IGMP to a host", false, ip(wan4, web4, raw(protoIGMP, make([]byte, 8)...), hops(1))),
		row("SYN+ACK", false, ip(wan4, web4, tcp(22, 40000, synAck))),
		row("SYN+ACK behind options", false, ip(wan4, web4, tcp(22, 40000, synAck), options(1, 1, 1, 1))),
		row("ACK", false, ip(wan4, web4, tcp(22, 40000, tcpACK))),
		row("RST", false, ip(wan4, web4, tcp(22, 40000, 0x04))),
		row("what looks like SYN+ACK in a later fragment", false, ip(wan4, web4, tcp(22, 40000, synAck), fragment4(9, false))),
		row("ping", false, ip(wan4, web4, ping())),
		row("mDNS", false, ip(wan4, mdns4, udp(5353, 5353))),
		{name: "own: SYN+ACK, tor", frame: ether(ip(wan4, web4, tcp(22, 40000, synAck))), class: abi.VerdictTor},
		{name: "own: DHCP, local", frame: ether(ip("0.0.0.0", "255.255.255.255", udp(68, 67))), class: abi.VerdictLocal, all: true, exec: true},
		{name: "own: DHCP to a server elsewhere, local", frame: ether(ip(wan4, web4, udp(68, 67))), class: abi.VerdictLocal},
	}
}

func ownIPv6Rows() []ownRow {
	const synAck = tcpSYN | tcpACK
	row := func(name string, all bool, packet []byte) ownRow {
		return ownRow{name: "own: " + name + ", IPv6", frame: ether(packet), all: all, exec: true}
	}
	rows := []ownRow{
		row("DHCP", true, ip(link6, "ff02::1:2", udp(546, 547))),
		row("DHCP to a neighbour", true, ip(link6, neighbour6, udp(546, 547))),
		row("DHCP to a server elsewhere", false, ip(own6, web6, udp(546, 547))),
		row("DHCP to another group", false, ip(link6, "ff05::1:3", udp(546, 547))),
		row("DHCP of a server", false, ip(link6, neighbour6, udp(547, 546))),
		row("DHCP in a fragment", false, ip(link6, neighbour6, udp(546, 547), fragment6(0, true))),
		row("MLD in another header", false, ip(link6, routers6, icmp(protoICMPv6, 143, 0), ext(extDestination, 0), hops(1))),
		row("MLD behind two headers", false, ip(link6, routers6, icmp(protoICMPv6, 143, 0), ext(extHopByHop, 0), ext(extHopByHop, 0), hops(1))),
		row("hop-by-hop before UDP", false, ip(link6, routers6, raw(protoUDP, 143, 0, 0, 0, 0, 8, 0, 0), ext(extHopByHop, 0))),
		row("SYN+ACK", false, ip(own6, web6, tcp(22, 40000, synAck))),
		row("SYN", false, ip(own6, web6, tcp(22, 40000, tcpSYN))),
		row("SYN+ACK behind a header", false, ip(own6, web6, tcp(22, 40000, synAck), ext(extHopByHop, 0))),
	}
	// By how many hops they have, and whether they may go to a group of the link, one further
	// on, a neighbour by its link-local address, one by another, and who is on no link of ours.
	membership, discovery := []uint8{1}, []uint8{255}
	for kind, stays := range map[uint8]struct {
		hops []uint8
		to   [5]bool
	}{
		130: {membership, [5]bool{true, true}}, 131: {membership, [5]bool{true, true}}, 132: {membership, [5]bool{true, true}}, 143: {membership, [5]bool{true, true}},
		133: {discovery, [5]bool{true, false, true}}, 135: {discovery, [5]bool{true, false, true, true}}, 136: {discovery, [5]bool{true, false, true, true}},
		0: {}, 1: {}, 128: {}, 129: {}, 134: {}, 137: {}, 138: {}, 142: {}, 144: {},
	} {
		for i, dst := range []string{routers6, "ff05::2", neighbour6, onLink6, web6} {
			src := own6
			if dst == neighbour6 {
				src = link6
			}
			for _, n := range []uint8{1, 64, 255} {
				may := stays.to[i] && slices.Contains(stays.hops, n)
				rows = append(rows,
					row(fmt.Sprintf("ICMP %d to %s with %d hops", kind, dst, n), may, ip(src, dst, icmp(protoICMPv6, kind, 0), hops(n))),
					row(fmt.Sprintf("ICMP %d to %s with %d hops behind hop-by-hop options", kind, dst, n), may, ip(src, dst, icmp(protoICMPv6, kind, 0), ext(extHopByHop, 1), hops(n))))
			}
		}
	}
	return append(rows, row("a neighbour of another link", false, ip(own6, otherLink6, icmp(protoICMPv6, 135, 0), hops(255))))
}

// putLinks says which hosts are neighbours by an interface, and by another.
func (o *objects) putLinks(index uint32) {
	for addr, at := range map[string]uint32{onLink6: index, otherLink6: otherIndex} {
		key := abi.DatapathLinkPrefix6{Prefixlen: 32 + 64, Ifindex: at, Addr: netip.MustParseAddr(addr).As16()}
		o.put(abi.DatapathMapLink6Prefixes, key, uint8(1))
	}
}

// checkOwn sends a packet in each mode.
func (o *objects) checkOwn(t *testing.T, r ownRow) {
	for mode, leaves := range map[abi.ClientMode]bool{abi.ClientNone: true, abi.ClientAll: r.all, abi.ClientExec: r.exec} {
		p := home()
		p.Client = mode
		o.set(p)
		o.putPrefix("local", netip.MustParsePrefix("51.7.0.0/16"), abi.DatapathLocalSubnet{Ifindex: otherIndex})
		o.putLinks(lanIndex)
		mark := uint32(r.class)<<24 | r.other
		out := o.watch(t, "torbpf_uplink", r.frame, skBuff{Ifindex: lanIndex, Mark: mark})
		want := uint32(actNext)
		if !leaves {
			want = actShot
		}
		if out.action != want || out.mark != mark {
			t.Errorf("mode %d: the program returns %#x with mark %#08x, want %#x with %#08x", mode, out.action, out.mark, want, mark)
		}
		c := out.moved[counted{lanIndex, abi.VerdictRefused, abi.ReasonClientGuard}]
		if !leaves && (len(out.moved) != 1 || c.Packets != 1 || c.Bytes != uint64(len(r.frame))) {
			t.Errorf("mode %d: counted %v, want one packet as %s", mode, out.moved, abi.ReasonClientGuard)
		}
		if leaves && len(out.moved) != 0 {
			t.Errorf("mode %d: counted %v of a packet that leaves", mode, out.moved)
		}
	}
}

// TestWithoutAnEthernetHeaderOnlyIPLeaves, and what ARP must look like: what is behind a
// tunnel goes by the first bits of a packet, whatever its sender has called it.
func TestWithoutAnEthernetHeaderOnlyIPLeaves(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	p.Client = abi.ClientAll
	o.set(p)
	four, six := ip(wan4, web4, udp(40000, 7)), ip(own6, web6, udp(40000, 7))
	for _, c := range []struct {
		name   string
		frame  []byte
		class  abi.Verdict
		leaves bool
	}{
		{"direct", ether(four), abi.VerdictDirect, true},
		{"direct, IPv6", ether(six), abi.VerdictDirect, true},
		{"no class", ether(four), abi.VerdictNone, false},
		{"no class, IPv6", ether(six), abi.VerdictNone, false},
		{"local, to a public address", ether(four), abi.VerdictLocal, false},
		{"local, to a private one", ether(ip(wan4, near4, udp(40000, 7))), abi.VerdictLocal, true},
		{"a first message of a lease", ether(ip("0.0.0.0", "255.255.255.255", udp(68, 67))), abi.VerdictNone, true},
		{"ARP", etherRaw(0x0806, make([]byte, 46)...), abi.VerdictNone, true},
		{"IPv4, called ARP", etherRaw(0x0806, four...), abi.VerdictNone, false},
		{"IPv6, called ARP", etherRaw(0x0806, six...), abi.VerdictNone, false},
		{"IPv6, called IPv4", etherRaw(0x0800, six...), abi.VerdictNone, false},
		{"EAPOL", etherRaw(0x888e, make([]byte, 46)...), abi.VerdictNone, false},
		{"a session of PPPoE", etherRaw(0x8864, make([]byte, 46)...), abi.VerdictNone, false},
	} {
		out := o.watch(t, abi.DatapathProgTorbpfUplink3, c.frame, skBuff{Ifindex: lanIndex, Mark: uint32(c.class) << 24})
		if leaves := out.action == actNext; leaves != c.leaves {
			t.Errorf("%s: it leaves is %t, want %t", c.name, leaves, c.leaves)
		}
	}
}

// TestOwnPacketsLeaveByTheirExitOnly: class via, at an interface that is one and at
// another, and when its time is over.
func TestOwnPacketsLeaveByTheirExitOnly(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	p.Client = abi.ClientAll
	o.set(p)
	frame := ether(ip(wan4, web4, tcp(40000, 443, tcpSYN)))
	at := skBuff{Ifindex: lanIndex, Mark: uint32(abi.VerdictVia) << 24}
	for _, c := range []struct {
		name  string
		index uint32
		until uint64
		want  uint32
	}{
		{"no exit", otherIndex, 0, actShot},
		{"an exit", lanIndex, 0, actNext},
		{"an exit that was", lanIndex, 1, actShot},
	} {
		clear[uint32](o, "own_exits")
		o.put("own_exits", c.index, abi.DatapathRule{Policy: abi.PolicyDirect, UntilNs: c.until})
		if out := o.watch(t, "torbpf_uplink", frame, at); out.action != c.want {
			t.Errorf("%s: the program returns %#x, want %#x", c.name, out.action, c.want)
		}
	}
}

// TestOwnDNSThatIsStoppedIsNotCountedAsSent: one reason per packet.
func TestOwnDNSThatIsStoppedIsNotCountedAsSent(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	p.Client = abi.ClientAll
	o.set(p)
	frame := ether(ip(wan4, web4, udp(40000, 53)))
	for _, c := range []struct {
		class abi.Verdict
		want  counted
	}{
		{abi.VerdictNone, counted{lanIndex, abi.VerdictRefused, abi.ReasonClientGuard}},
		{abi.VerdictDirect, counted{lanIndex, abi.VerdictNone, abi.ReasonOwnDNS}},
	} {
		out := o.watch(t, "torbpf_uplink", frame, skBuff{Ifindex: lanIndex, Mark: uint32(c.class) << 24})
		if len(out.moved) != 1 || out.moved[c.want].Packets != 1 {
			t.Errorf("class %s: counted %v, want %v", c.class, out.moved, c.want)
		}
	}
}

// TestConnectionsToTorAreResetWhileItTakesNone at once, in client mode.
func TestConnectionsToTorAreResetWhileItTakesNone(t *testing.T) {
	for _, program := range []string{abi.DatapathProgTorbpfDns, abi.DatapathProgTorbpfDnsSrc} {
		t.Run(program, func(t *testing.T) {
			w := lay(t)
			w.guard(program)
			trans, other := listenTCP(t, int(ports.Trans)), listenTCP(t, int(ports.DNS))
			for _, c := range []struct {
				mode  abi.ClientMode
				open  bool
				taken bool
			}{
				{abi.ClientNone, false, true},
				{abi.ClientNone, true, true},
				{abi.ClientExec, false, false},
				{abi.ClientExec, true, true},
				{abi.ClientAll, false, false},
				{abi.ClientAll, true, true},
			} {
				p := home()
				p.Client, p.GateOpen = c.mode, c.open
				w.set(p)
				key := counted{1, abi.VerdictRefused, abi.ReasonTorNotReady}
				before := w.tally()[key].Packets
				for _, addr := range []string{"127.0.0.1", "::1"} {
					err := connect(addr, trans)
					if taken := err == nil; taken != c.taken || !taken && !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("mode %d, open %t: connecting to %s gives %v", c.mode, c.open, addr, err)
					}
					if err := connect(addr, other); err != nil {
						t.Errorf("mode %d, open %t: connecting to another port gives %v", c.mode, c.open, err)
					}
				}
				if n := w.tally()[key].Packets - before; (n == 2) == c.taken {
					t.Errorf("mode %d, open %t: counted %d", c.mode, c.open, n)
				}
			}
		})
	}
}

func listenTCP(t *testing.T, port int) int {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return port
}

func connect(addr string, port int) error {
	conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(addr), Port: port})
	if err != nil {
		return err
	}
	return conn.Close()
}
