package model

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// errorAbout is an ICMP error about a packet.
func errorAbout(protocol uint8, quoted []byte) segment {
	kind := byte(3)
	if protocol == protoICMPv6 {
		kind = 1
	}
	return segment{protocol, slices.Concat([]byte{kind, 3, 0, 0, 0, 0, 0, 0}, quoted), 2}
}

// until is a deadline that far from now.
func until(t *testing.T, d time.Duration) abi.DatapathDeadline {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return abi.DatapathDeadline{UntilNs: uint64(now.Nano() + d.Nanoseconds())}
}

func (o *objects) cut(protocol uint8, near, peer string, deadline abi.DatapathDeadline) {
	o.tb.Helper()
	flow := InboundFlow{protocol, netip.MustParseAddrPort(near), netip.MustParseAddrPort(peer)}
	o.put("cut_flows", inboundKey(flow), deadline)
}

// TestTheRouterIsSilentToCutPeers: whoever goes on talking on a connection that was
// cut gets neither a reset nor an ICMP error; all others do.
func TestTheRouterIsSilentToCutPeers(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	v6 := "2600:9::1"
	soon := until(t, time.Minute)
	o.cut(protoTCP, wan4+":40000", web4+":443", soon)
	o.cut(protoUDP, wan4+":40001", web4+":7000", soon)
	o.cut(protoTCP, "["+v6+"]:40000", "["+web6+"]:443", soon)
	o.cut(protoUDP, "["+v6+"]:40001", "["+web6+"]:7000", soon)
	o.cut(protoTCP, wan4+":40009", web4+":443", until(t, -time.Second))
	const tcpRST = 0x04
	const ackRST = tcpRST | tcpACK
	asked4, asked6 := ip(web4, wan4, udp(7000, 40001)), ip(web6, v6, udp(7000, 40001))
	for _, row := range []struct {
		name   string
		packet []byte
		silent bool
	}{
		{"a reset", ip(wan4, web4, tcp(40000, 443, tcpRST)), true},
		{"a reset with an ACK", ip(wan4, web4, tcp(40000, 443, ackRST)), true},
		{"a reset behind IP options", ip(wan4, web4, tcp(40000, 443, tcpRST), options(1, 1, 1, 1)), true},
		{"a reset, IPv6", ip(v6, web6, tcp(40000, 443, tcpRST)), true},
		{"port unreachable", ip(wan4, web4, errorAbout(protoICMP, asked4)), true},
		{"port unreachable, IPv6", ip(v6, web6, errorAbout(protoICMPv6, asked6)), true},
		{"an error of another of the router's addresses", ip("50.9.9.9", web4, errorAbout(protoICMP, asked4)), true},
		{"a reset from another port", ip(wan4, web4, tcp(40002, 443, tcpRST)), false},
		{"a reset to another port", ip(wan4, web4, tcp(40000, 444, tcpRST)), false},
		{"a reset when the time is over", ip(wan4, web4, tcp(40009, 443, tcpRST)), false},
		{"a connection of the router's own", ip(wan4, web4, tcp(40000, 443, tcpSYN)), false},
		{"its data", ip(wan4, web4, tcp(40000, 443, tcpACK)), false},
		{"a datagram of the router's own", ip(wan4, web4, udp(40001, 7000)), false},
		{"an error about another port", ip(wan4, web4, errorAbout(protoICMP, ip(web4, wan4, udp(7000, 40002)))), false},
		{"an error about the other protocol", ip(wan4, web4, errorAbout(protoICMP, ip(web4, wan4, tcp(7000, 40001, tcpACK)))), false},
		{"an error that quotes nothing", ip(wan4, web4, errorAbout(protoICMP, nil)), false},
		{"a ping", ip(wan4, web4, ping()), false},
		{"a ping, IPv6", ip(v6, web6, ping6()), false},
	} {
		out := o.watch(t, "torbpf_uplink", ether(row.packet), skBuff{Ifindex: lanIndex})
		if silent := out.action == actShot; silent != row.silent {
			t.Errorf("%s: stopped is %t, want %t", row.name, silent, row.silent)
		}
		if n := out.moved[counted{lanIndex, abi.VerdictRefused, abi.ReasonCutPeer}].Packets; (n == 1) != row.silent {
			t.Errorf("%s: counted %v", row.name, out.moved)
		}
	}
}

// TestTheRouterComplainsOfNoDevice: what a device has sent by a source of somebody else's, and
// the kernel could not forward, is not told there. What came from outside is answered as ever.
func TestTheRouterComplainsOfNoDevice(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	v6 := "2600:9::1"
	exceeded := func(protocol uint8, quoted []byte) segment {
		s := errorAbout(protocol, quoted)
		s.bytes[0], s.bytes[1] = 11, 0
		if protocol == protoICMPv6 {
			s.bytes[0] = 3
		}
		return s
	}
	for _, row := range []struct {
		name   string
		packet []byte
		silent bool
	}{
		{"of hops", ip(wan4, forged4, exceeded(protoICMP, ip(forged4, web4, udp(40000, 443)))), true},
		{"of hops, IPv6", ip(v6, forged6, exceeded(protoICMPv6, ip(forged6, web6, udp(40000, 443)))), true},
		{"of no way there", ip(wan4, forged4, errorAbout(protoICMP, ip(forged4, web4, tcp(40000, 443, tcpSYN)))), true},
		{"of a private address beyond the uplink", ip(wan4, forged4, exceeded(protoICMP, ip(forged4, private4, udp(40000, 443)))), true},
		{"of hops, to who asked the router", ip(wan4, web4, exceeded(protoICMP, ip(web4, wan4, udp(40000, 443)))), false},
		{"of a port, to who asked the router", ip(wan4, web4, errorAbout(protoICMP, ip(web4, wan4, udp(40000, 443)))), false},
		{"of hops, to who asked a device", ip(v6, web6, exceeded(protoICMPv6, ip(web6, laptop6, udp(40000, 443)))), false},
		{"of hops, to who asked beyond another interface", ip(wan4, web4, exceeded(protoICMP, ip(web4, vpn4, udp(40000, 443)))), false},
		{"an answer to a ping", ip(wan4, web4, ping()), false},
	} {
		out := o.watch(t, "torbpf_uplink", ether(row.packet), skBuff{Ifindex: lanIndex})
		n := out.moved[counted{lanIndex, abi.VerdictRefused, abi.ReasonForeignSource}].Packets
		if silent := out.action == actShot; silent != row.silent || (n == 1) != row.silent {
			t.Errorf("%s: stopped is %t, want %t; counted %v", row.name, silent, row.silent, out.moved)
		}
	}
}

// TestACutPeerBeginsNoOtherFlow: as the device knows it, so that it gets no answer
// either, and is not learned as a visitor.
func TestACutPeerBeginsNoOtherFlow(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	p.Inbound = true
	o.set(p)
	inbound := skBuff{Ifindex: lanIndex, IngressIfindex: otherIndex, Mark: uint32(abi.VerdictInbound) << 24}
	o.cut(protoUDP, laptop4+":27015", web4+":40000", until(t, time.Minute))
	o.cut(protoUDP, "["+laptop6+"]:27015", "["+web6+"]:40000", until(t, time.Minute))
	o.cut(protoUDP, laptop4+":27016", web4+":40000", until(t, -time.Second))
	for _, row := range []struct {
		name      string
		to, reply []byte
		cut       bool
	}{
		{"a cut peer", ip(web4, laptop4, udp(40000, 27015)), ip(laptop4, web4, udp(27015, 40000)), true},
		{"a cut peer, IPv6", ip(web6, laptop6, udp(40000, 27015)), ip(laptop6, web6, udp(27015, 40000)), true},
		{"another port", ip(web4, laptop4, udp(40000, 27017)), ip(laptop4, web4, udp(27017, 40000)), false},
		{"when its time is over", ip(web4, laptop4, udp(40000, 27016)), ip(laptop4, web4, udp(27016, 40000)), false},
	} {
		out := o.watch(t, "torbpf_lan_out", ether(row.to), inbound)
		n := out.moved[counted{lanIndex, abi.VerdictRefused, abi.ReasonCutPeer}].Packets
		if (out.action == actShot) != row.cut || (n == 1) != row.cut {
			t.Errorf("%s: torbpf_lan_out returns %#x and counts %v", row.name, out.action, out.moved)
		}
		if out := o.watch(t, "torbpf_lan", ether(row.reply), skBuff{Ifindex: lanIndex}); (out.action == actNext) == row.cut {
			t.Errorf("%s: its reply gets %#x", row.name, out.action)
		}
	}
}

// TestWhatTheRouterSendsToADeviceStaysIn by whatever address the device goes, and
// however long ago that was a LAN's.
func TestWhatTheRouterSendsToADeviceStaysIn(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	o.putPrefix("local", netip.MustParsePrefix("fe80::/10"), abi.DatapathLocalSubnet{Ifindex: lanIndex}) // as loader does
	o.putPrefix("past", netip.MustParsePrefix("192.168.77.0/24"), until(t, time.Minute))
	o.putPrefix("past", netip.MustParsePrefix("fd77::/64"), until(t, time.Minute))
	o.putPrefix("past", netip.MustParsePrefix("192.168.78.0/24"), until(t, -time.Second))
	for _, row := range []struct {
		name   string
		packet []byte
		leak   bool
	}{
		{"to a LAN", ip(wan4, laptop4, udp(1, 2)), true},
		{"to a LAN, IPv6", ip("2600:9::1", laptop6, udp(1, 2)), true},
		{"to what a LAN had", ip(wan4, "192.168.77.9", tcp(22, 40000, tcpACK)), true},
		{"an error to what a LAN had, IPv6", ip("2600:9::1", "fd77::9", errorAbout(protoICMPv6, ip("fd77::9", web6, ping6()))), true},
		{"to what a LAN had long ago", ip(wan4, "192.168.78.9", udp(1, 2)), false},
		{"to what none had", ip(wan4, "192.168.79.9", udp(1, 2)), false},
		{"for its link-local address on a LAN", ip(link6, web6, udp(1, 2)), true},
		{"to a neighbour of the uplink", ip(link6, "fe80::77", udp(1, 2)), false},
		{"neighbour discovery for a LAN's address", ip("2600:9::1", laptop6, icmp(protoICMPv6, 135, 0)), false},
	} {
		out := o.watch(t, "torbpf_uplink", ether(row.packet), skBuff{Ifindex: lanIndex})
		if leak := out.action == actShot; leak != row.leak {
			t.Errorf("%s: stopped is %t, want %t", row.name, leak, row.leak)
		}
		if n := out.moved[counted{lanIndex, abi.VerdictRefused, abi.ReasonUplinkGuard}].Packets; (n == 1) != row.leak {
			t.Errorf("%s: counted %v", row.name, out.moved)
		}
	}
}
