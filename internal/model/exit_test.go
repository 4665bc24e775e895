package model

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// layExit adds an interface that some routes lead to, and excludes it.
//
//	lan0 ── the programs ──▶ exit0 (198.18.0.0/15 and 2600:18::/32) or wan0 (the rest)
func layExit(t *testing.T, w *wire) (exit, wan int) {
	t.Helper()
	for i, name := range []string{"exit0", "wan0"} {
		command(t, fmt.Sprintf(`
			ip link add %[1]s type veth peer name %[1]s-far
			ip link set %[1]s addrgenmode none up
			ip link set %[1]s-far addrgenmode none up
			ip addr add 172.31.%[2]d.1/30 dev %[1]s
			ip addr add fd31:%[2]d::1/64 dev %[1]s nodad`, name, i))
	}
	command(t, `
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0
		ip route add default via 172.31.1.2 dev wan0
		ip -6 route add default via fd31:1::2 dev wan0
		ip route add 198.18.0.0/15 via 172.31.0.2 dev exit0
		ip -6 route add 2600:18::/32 via fd31::2 dev exit0
		ip route add default via 172.31.0.2 dev exit0 table 77
		ip rule add fwmark 0x99/0xff lookup 77`)
	exit, wan = ifindex(t, "exit0"), ifindex(t, "wan0")
	w.put("exits", uint32(exit), abi.DatapathRule{Policy: abi.PolicyDirect})
	return exit, wan
}

// change changes the settings that the programs go by.
func (w *wire) change(fn func(*abi.DatapathSettings)) {
	var s abi.DatapathSettings
	if err := w.maps["settings"].Lookup(uint32(0), &s); err != nil {
		w.t.Fatal(err)
	}
	fn(&s)
	w.put("settings", uint32(0), s)
}

func (w *wire) setExits(on bool) {
	w.change(func(s *abi.DatapathSettings) { s.Exits = flag(on) })
}

// TestWhatIsRoutedToAnExitGoesThere: what Tor would take or nobody, and nothing that
// comes before exclusions.
// knownTo is what comes of a packet that is routed to an exit where the kernel's look-up may not
// see that: before Linux 6.10 it knows no marks, and of IPv6 it is always asked with one.
func knownTo(t *testing.T, want abi.Reason, packet []byte, mark uint32) abi.Reason {
	t.Helper()
	k := Parse(etherTo(stationMAC, hostMAC, packet), true, Metadata{})
	switch {
	case want != abi.ReasonDirectInterface || !olderThan(t, 6, 10) || mark == 0 && k.Layer3 != IPv6:
		return want
	case k.Protocol == protoTCP:
		return abi.ReasonTCP
	default:
		return abi.ReasonQUIC
	}
}

func TestWhatIsRoutedToAnExitGoesThere(t *testing.T) {
	w := lay(t)
	exit, _ := layExit(t, w)
	w.setExits(true)
	there4, there6 := "198.18.7.7", "2600:18::7"
	onion4, back6 := "10.192.0.9", "2600:18:8::8"
	command(t, "ip route add 10.0.0.0/8 via 172.31.0.2 dev exit0")
	w.putPrefix("dst", netip.MustParsePrefix("2600:18:8::/48"), abi.DatapathRule{Policy: abi.PolicyTor, Prefixlen: 48})
	for _, c := range []struct {
		name   string
		packet []byte
		mark   uint32
		want   abi.Reason
	}{
		{"TCP", ip(laptop4, there4, tcp(40000, 443, tcpSYN)), 0, abi.ReasonDirectInterface},
		{"TCP in the middle", ip(laptop4, there4, tcp(40000, 443, tcpACK)), 0, abi.ReasonDirectInterface},
		{"TCP, IPv6", ip(laptop6, there6, tcp(40000, 443, tcpSYN)), 0, abi.ReasonDirectInterface},
		{"UDP", ip(laptop4, there4, udp(40000, 27015)), 0, abi.ReasonDirectInterface},
		{"QUIC, IPv6", ip(laptop6, there6, udp(40000, 443)), 0, abi.ReasonDirectInterface},
		{"ping", ip(laptop4, there4, ping()), 0, abi.ReasonDirectInterface},
		{"GRE", ip(laptop4, there4, raw(protoGRE, make([]byte, 20)...)), 0, abi.ReasonDirectInterface},
		{"a fragment", ip(laptop4, there4, raw(protoUDP, 1, 2, 3), fragment4(9, false)), 0, abi.ReasonDirectInterface},
		{"DNS stays Tor's", ip(laptop4, there4, udp(40000, 53, dnsQuery()...)), 0, abi.ReasonDNSUDP},
		{"the first fragment of DNS", ip(laptop4, there4, udp(40000, 53, dnsQuery()...), fragment4(0, true)), 0, abi.ReasonFragment},
		{"a fragment to .onion", ip(laptop4, onion4, tcp(40000, 80, tcpSYN), fragment4(0, true)), 0, abi.ReasonFragment},
		{"a later fragment to .onion", ip(laptop4, onion4, raw(protoUDP, 1, 2, 3), fragment4(9, false)), 0, abi.ReasonFragment},
		{"TCP that a rule takes back", ip(laptop6, back6, tcp(40000, 443, tcpSYN)), 0, abi.ReasonTCP},
		{"UDP that a rule takes back", ip(laptop6, back6, udp(40000, 27015)), 0, abi.ReasonUDP},
		{"elsewhere, TCP", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), 0, abi.ReasonTCP},
		{"elsewhere, UDP, IPv6", ip(laptop6, web6, udp(40000, 27015)), 0, abi.ReasonUDP},
		{"a blocked source", ip(blocked4, there4, tcp(40000, 443, tcpSYN)), 0, abi.ReasonBlockedSource},
		{"a source that no LAN has", ip(forged4, there4, tcp(40000, 443, tcpSYN)), 0, abi.ReasonForeignSource},
		{"to the router", ip(laptop4, router4, tcp(40000, 22, tcpSYN)), 0, abi.ReasonRouterAddress},
		{"to a neighbour", ip(laptop4, printer4, tcp(40000, 9100, tcpSYN)), 0, abi.ReasonLocalSubnet},
		{"excluded otherwise", ip(laptop4, excluded4, tcp(40000, 443, tcpSYN)), 0, abi.ReasonDirectDestination},
		{"to where nothing leads", ip(laptop4, "127.0.0.9", tcp(40000, 443, tcpSYN)), 0, abi.ReasonPrivate},
		{"by a rule for its mark", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), 0x99, abi.ReasonDirectInterface},
	} {
		c.want = knownTo(t, c.want, c.packet, c.mark)
		out := w.watch(t, "torbpf_lan", etherTo(stationMAC, hostMAC, c.packet), skBuff{Ifindex: uint32(w.lan), Mark: c.mark})
		key := counted{uint32(w.lan), c.want.Verdict(), c.want}
		if out.moved[key].Packets != 1 || len(out.moved) != 1 {
			t.Errorf("%s: counted %v, want one packet as %s", c.name, out.moved, c.want)
		}
		if via := c.want == abi.ReasonDirectInterface; via != (out.mark>>24&0xf == uint32(abi.VerdictVia)) {
			t.Errorf("%s: the mark is %#x", c.name, out.mark)
		}
	}
	tcpThere := etherTo(stationMAC, hostMAC, ip(laptop6, there6, tcp(40000, 443, tcpSYN)))
	for name, change := range map[string]func(){
		"without exits":   func() { w.setExits(false) },
		"when it is over": func() { w.put("exits", uint32(exit), abi.DatapathRule{Policy: abi.PolicyDirect, UntilNs: 1}) },
	} {
		w.setExits(true)
		w.put("exits", uint32(exit), abi.DatapathRule{Policy: abi.PolicyDirect})
		change()
		out := w.watch(t, "torbpf_lan", tcpThere, skBuff{Ifindex: uint32(w.lan)})
		if n := out.moved[counted{uint32(w.lan), abi.VerdictTor, abi.ReasonTCP}].Packets; n != 1 {
			t.Errorf("%s: counted %v", name, out.moved)
		}
	}
}

// TestAFragmentTakesNoExitPastAPortOfTors: it may be of the port that a rule keeps.
func TestAFragmentTakesNoExitPastAPortOfTors(t *testing.T) {
	w := lay(t)
	layExit(t, w)
	w.setExits(true)
	w.putService(service("5060/udp@::/0", abi.PolicyTor))
	w.change(func(s *abi.DatapathSettings) { s.Services, s.TorPorts = 1, 1 })
	there6 := "2600:18::7"
	for _, c := range []struct {
		name   string
		packet []byte
		want   abi.Reason
	}{
		{"a whole datagram to another port", ip(laptop6, there6, udp(40000, 27015)), abi.ReasonDirectInterface},
		{"one to that port", ip(laptop6, there6, udp(40000, 5060)), abi.ReasonUDP},
		{"a first fragment", ip(laptop6, there6, udp(40000, 5060), fragment6(0, true)), abi.ReasonFragment},
		{"a later one", ip(laptop6, there6, raw(protoUDP, 1, 2, 3), fragment6(9, false)), abi.ReasonFragment},
		{"one of GRE", ip(laptop6, there6, raw(protoGRE, 1, 2, 3), fragment6(9, false)), abi.ReasonDirectInterface},
	} {
		out := w.watch(t, "torbpf_lan", etherTo(stationMAC, hostMAC, c.packet), skBuff{Ifindex: uint32(w.lan)})
		if key := (counted{uint32(w.lan), c.want.Verdict(), c.want}); out.moved[key].Packets != 1 || len(out.moved) != 1 {
			t.Errorf("%s: counted %v, want one packet as %s", c.name, out.moved, c.want)
		}
	}
}

// TestAnExitIsHeldAtTheUplink: when the route has changed since.
func TestAnExitIsHeldAtTheUplink(t *testing.T) {
	w := lay(t)
	exit, wan := layExit(t, w)
	via := uint32(abi.VerdictVia) << 24
	frame := ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN)))
	for name, c := range map[string]struct {
		leaves int
		until  uint64
		want   uint32
	}{
		"by the exit":                  {exit, 0, actNext},
		"by another":                   {wan, 0, actShot},
		"by the exit, when it is over": {exit, 1, actShot},
	} {
		w.put("exits", uint32(exit), abi.DatapathRule{Policy: abi.PolicyDirect, UntilNs: c.until})
		out := w.watch(t, "torbpf_uplink", frame, skBuff{Ifindex: uint32(c.leaves), IngressIfindex: lanIndex, Mark: via})
		if out.action != c.want {
			t.Errorf("%s: the program returns %#x, want %#x", name, out.action, c.want)
		}
	}
}

// TestAFlowThatARuleTakesBackIsCut: its packets are Tor's, whatever its route.
func TestAFlowThatARuleTakesBackIsCut(t *testing.T) {
	p := home()
	p.Destinations = append(p.Destinations, PrefixPolicy{Prefix: netip.MustParsePrefix("2600:18:8::/48"), Policy: abi.PolicyTor})
	p.Services = append(p.Services, service("25/tcp@2600:18::/32", abi.PolicyTor))
	for to, want := range map[string]bool{"[2600:18::7]:443": true, "[2600:18:8::8]:443": false, "[2600:18::7]:25": false} {
		flow := plan.Flow{Protocol: protoTCP, Src: netip.MustParseAddrPort("[" + laptop6 + "]:40000"), Dst: netip.MustParseAddrPort(to)}
		if got := p.MayLeave(flow); got != want {
			t.Errorf("%s may leave: %t, want %t", to, got, want)
		}
	}
}
