package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/testnet"
)

// asking is a packet of client1, of which explain is asked before it is sent.
type asking struct {
	reason string // that explain gives
	proto  uint8  // TCP is a SYN, ICMP an echo
	to     string
	sport  uint16 // 0: one of its own
	dport  uint16
	query  string // of DNS, name and type
	flags  []string
	from   netip.Addr // zero: client1's own of the family
	given  func(*testing.T, *testnet.Lab)
	seen   string // where it is forwarded to; "" for what its verdict says
}

// beyondExplain are the reasons that it gives of no packet of a device that it can be asked about.
var beyondExplain = map[abi.Reason]string{
	abi.ReasonNone:          "of nothing",
	abi.ReasonOtherVLAN:     "of a frame that is not judged",
	abi.ReasonNonIP:         "it is asked about addresses",
	abi.ReasonFragment:      "it is asked about whole packets",
	abi.ReasonMalformed:     "it is asked about whole packets",
	abi.ReasonUplinkGuard:   "at an uplink",
	abi.ReasonForwardGuard:  "behind all that judges it",
	abi.ReasonDNSGuard:      "at the router's own sockets",
	abi.ReasonDeliveryGuard: "at the router's own sockets",
	abi.ReasonCutPeer:       "of the far end",
	abi.ReasonOwnDNS:        "of the router's own",
	abi.ReasonClientGuard:   "of the router's own",
	abi.ReasonClientEnded:   "of the router's own",
	abi.ReasonOnionMoved:    "there is one tor here: tors_test.go",
	abi.ReasonNoConnection:  "of sockets, of which it does not ask: loader/handover_test.go",
	abi.ReasonStranger:      "likewise",
}

const (
	seenNowhere = "nowhere"
	seenWAN     = "the WAN"
	seenVPN     = "the VPN"
	seenLAN2    = "the second LAN"
)

// excluding has one thing excluded for a test.
func excluding(args ...string) func(*testing.T, *testnet.Lab) {
	return func(t *testing.T, lab *testnet.Lab) {
		t.Helper()
		mustTorbpf(t, lab, append([]string{"exclude", "add"}, args...)...)
		t.Cleanup(func() {
			if i := slices.Index(args, "--policy"); i >= 0 {
				args = slices.Delete(slices.Clone(args), i, i+2)
			}
			if i := slices.Index(args, "--resolver"); i >= 0 {
				args = slices.Delete(slices.Clone(args), i, i+2)
			}
			mustTorbpf(t, lab, append([]string{"exclude", "del"}, args...)...)
		})
	}
}

// TestWhatExplainSaysBecomesOfThePacket: for each verdict and reason the packet that explain
// was asked about is then sent. It is counted under that reason, it is seen where that
// verdict lets it go and nowhere else, and its sender is told what explain said.
func TestWhatExplainSaysBecomesOfThePacket(t *testing.T) {
	lab := torLab(t)
	linkTunnel(t, lab)
	t.Cleanup(func() {
		if _, err := lab.Router.Run(context.Background(), "ip", "link", "del", "wg0"); err != nil {
			t.Error(err)
		}
	})
	attach(t, lab, lan, lan2)
	muteClient(t, lab)
	w := &witness{lab: lab, places: map[string]*testnet.Capture{
		seenWAN: captureWAN(t, lab), seenVPN: captureAt(t, lab, lab.ISP, "wg-far"), seenLAN2: captureAt(t, lab, lab.Client3, "eth0"),
	}, client: captureAt(t, lab, lab.Client1, "eth0")}
	covered := make(map[string]bool)
	for i, a := range askings(lab) {
		if a.sport == 0 {
			a.sport = uint16(41000 + i)
		}
		if a.from == (netip.Addr{}) {
			a.from = lab.Client1.IPv4
			if strings.Contains(a.to, ":") {
				a.from = lab.Client1.IPv6
			}
		}
		covered[a.reason] = true
		t.Run(fmt.Sprintf("%s_%s", a.reason, a.to), func(t *testing.T) { w.follow(t, a) })
	}
	for reason := abi.ReasonNone; reason < abi.ReasonMax; reason++ {
		if _, beyond := beyondExplain[reason]; beyond == covered[reason.String()] {
			t.Errorf("%v: is in the table %v, beyond explain %v", reason, covered[reason.String()], beyond)
		}
	}
}

// muteClient keeps client1 from saying anything about what it has not sent by a socket.
func muteClient(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	run(t, lab.Client1, "nft", `table inet mute { chain out { type filter hook output priority 0;
		tcp flags & rst == rst drop
		icmp type destination-unreachable drop
		icmpv6 type destination-unreachable drop
		udp sport 8081 drop
	}
	}`)
	t.Cleanup(func() {
		if _, err := lab.Client1.Run(context.Background(), "nft", "delete table inet mute"); err != nil {
			t.Error(err)
		}
	})
}

func captureAt(t *testing.T, lab *testnet.Lab, n *testnet.Node, ifname string) *testnet.Capture {
	t.Helper()
	c, err := lab.Capture(t.Context(), n, ifname)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// askings are one packet at least for each reason. What needs the router otherwise than it
// is comes last.
func askings(lab *testnet.Lab) []asking {
	const udp, tcp, icmp, gre = unix.IPPROTO_UDP, unix.IPPROTO_TCP, unix.IPPROTO_ICMP, unix.IPPROTO_GRE
	web4, web6, router4, private := testnet.Web4.String(), testnet.Web6.String(), testnet.LANRouter4.String(), "10.1.1.1"
	own4, other := lab.Client1.IPv4.String(), "other."+testnet.Zone
	const onion = "10.193.1.1"
	return []asking{
		{reason: "tcp", proto: tcp, to: web4, dport: 80},
		{reason: "tcp", proto: tcp, to: web6, dport: 80},
		{reason: "udp", proto: udp, to: web4, dport: 7},
		{reason: "udp", proto: udp, to: web6, dport: 7},
		{reason: "quic", proto: udp, to: web4, dport: 443},
		{reason: "ntp", proto: udp, to: web4, dport: 123},
		{reason: "icmp", proto: icmp, to: web4},
		{reason: "icmp", proto: icmp, to: web6},
		{reason: "protocol", proto: gre, to: web4},
		{reason: "private", proto: tcp, to: private, dport: 80},
		{reason: "foreign-source", proto: tcp, to: web4, dport: 80, from: netip.MustParseAddr("1.2.3.4"), flags: []string{"--lan", lan}},
		{reason: "dns-udp", proto: udp, to: testnet.PublicResolver4.String(), dport: 53, query: "fate." + testnet.Zone + " A"},
		{reason: "dns-udp", proto: udp, to: router4, dport: 53, query: "own." + testnet.Zone + " A"},
		{reason: "dns-no-data", proto: udp, to: router4, dport: 53, query: "fate." + testnet.Zone + " HTTPS"},
		{reason: "dns-local", proto: udp, to: router4, dport: 53, query: "printer.lan A"},
		{reason: "dns-tcp", proto: tcp, to: testnet.PublicResolver4.String(), dport: 53},
		{reason: "router-dns", proto: tcp, to: router4, dport: 853},
		{reason: "onion-tcp", proto: tcp, to: onion, dport: 80},
		{reason: "onion-dns", proto: udp, to: onion, dport: 53, query: "onion." + testnet.Zone + " A"},
		{reason: "onion-protocol", proto: udp, to: onion, dport: 443},
		{reason: "router-address", proto: tcp, to: router4, dport: 22, seen: seenNowhere},
		{reason: "local-subnet", proto: udp, to: lab.Client3.IPv4.String(), dport: 7, seen: seenLAN2},
		{reason: "multicast", proto: udp, to: "224.0.0.251", dport: 5353, seen: seenNowhere},
		{reason: "link-local", proto: udp, to: "fe80::ff:fe00:5001", dport: 9, seen: seenNowhere},
		{reason: "direct-destination", proto: udp, to: web4, dport: 7, given: excluding(web4)},
		{reason: "direct-destination", proto: icmp, to: web6, given: excluding(web6)},
		{reason: "direct-source", proto: udp, to: web4, dport: 7, given: excluding("--source", own4)},
		{reason: "onion-from-direct", proto: tcp, to: onion, dport: 80, given: excluding("--source", own4)},
		{reason: "blocked-source", proto: tcp, to: web4, dport: 80, given: excluding("--source", own4, "--policy", "block")},
		{reason: "direct-device", proto: udp, to: web4, dport: 443, given: excluding("--device", testnet.MACClient1)},
		{reason: "blocked-device", proto: udp, to: web4, dport: 443, given: excluding("--device", testnet.MACClient1, "--policy", "block")},
		{reason: "direct-port", proto: udp, to: web4, dport: 7, given: excluding("--port", "7/udp")},
		{reason: "direct-port", proto: gre, to: web4, given: excluding("--port", "gre@"+web4)},
		{reason: "direct-list", proto: udp, to: web4, dport: 7, given: func(t *testing.T, lab *testnet.Lab) {
			excluding("--list", writeList(t, lab, "fate.txt", web4))(t, lab)
		}},
		{reason: "direct-interface", proto: udp, to: testnet.Other4.String(), dport: 7, seen: seenVPN, given: func(t *testing.T, lab *testnet.Lab) {
			changed([]string{"ip route add " + other4 + " via 10.66.0.1 dev wg0"}, []string{"ip route del " + other4})(t, lab)
			excluding("--interface", "wg0")(t, lab)
		}},
		{reason: "dns-domain", proto: udp, to: router4, dport: 53, query: other + " A", given: excluding("--domain", other, "--resolver", testnet.Resolver4.String())},
		{reason: "direct-domain", proto: udp, to: testnet.Other4.String(), dport: 7, given: func(t *testing.T, lab *testnet.Lab) {
			excluding("--domain", other, "--resolver", testnet.Resolver4.String())(t, lab)
			if err := lookup(lab.Client1, lab.Client1.Resolver, other, "A", "udp", testnet.Other4.String()); err != nil {
				t.Fatal(err)
			}
		}},
		{reason: "inbound-reply", proto: udp, to: testnet.Core4.String(), sport: testnet.PortForwardUDP, dport: 4999, seen: seenWAN, given: comeInByForward},
		{reason: "exempt-mark", proto: udp, to: web4, dport: 7, flags: []string{"--mark", "0x100"}, given: func(t *testing.T, lab *testnet.Lab) {
			excluding("--mark", "0x100")(t, lab)
			markAhead(t, lab, 0x100)
		}},
		{reason: "late-mark", proto: udp, to: web4, dport: 7, seen: seenNowhere, given: excluding("--mark", "0x100")},
		{reason: "late-mark", proto: udp, to: testnet.Other4.String(), dport: 7, seen: seenWAN, given: func(t *testing.T, lab *testnet.Lab) {
			excluding("--mark", "0x100")(t, lab)
			markOther(t, lab, "meta mark set 0x100")
		}},
		{reason: "reserved-open", proto: udp, to: private, dport: 7, given: func(t *testing.T, lab *testnet.Lab) {
			mustTorbpf(t, lab, attachArgs(lab, lan, lan2, "--local", "reserved")...)
			t.Cleanup(func() { mustTorbpf(t, lab, attachArgs(lab, lan, lan2, "--local", "connected")...) })
		}},
		{reason: "ntp-router", proto: udp, to: web4, dport: 123, given: func(t *testing.T, lab *testnet.Lab) {
			serveTime(t, lab)
			mustTorbpf(t, lab, attachArgs(lab, lan, lan2)...)
		}},
		{reason: "tor-not-ready", proto: tcp, to: web4, dport: 80, given: func(t *testing.T, lab *testnet.Lab) {
			kill(t, unix.SIGKILL, torPID(t, lab))
			eventually(t, patience, "refusal by tc", func() error { return refusedWithoutTor(lab.Client2) })
		}},
	}
}

// comeInByForward has the internet begin what port 8081 is forwarded for.
func comeInByForward(t *testing.T, lab *testnet.Lab) {
	conn, err := lab.Internet.ListenPacket("udp", at(testnet.Core4, 4999).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	to := net.UDPAddrFromAddrPort(at(testnet.WANRouter4, testnet.PortForwardUDP))
	if _, err := conn.WriteTo([]byte("is anybody there?"), to); err != nil {
		t.Fatal(err)
	}
}

// markAhead marks what comes by the LAN ahead of torbpf's program.
func markAhead(t *testing.T, lab *testnet.Lab, mark int32) {
	t.Helper()
	const offsetOfMark = 8 // struct __sk_buff
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{
		asm.StoreImm(asm.R1, offsetOfMark, int64(mark), asm.Word), asm.Mov.Imm32(asm.R0, -1), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	var ahead link.Link
	err = lab.Router.Do(func() (err error) {
		ahead, err = link.AttachTCX(link.TCXOptions{Interface: linkOf(t, lab, lan).Attrs().Index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ahead.Close() })
}
