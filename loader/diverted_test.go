package loader

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// What Tor and the sentry answer has the site's address by the time it leaves;
// by an uplink it goes when the route to the LAN is gone. The ports of a plan
// are not those the programs were compiled with.
func TestUplinkGuardStopsAnswersFromTorsPorts(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			p := l.plan()
			p.Ports = plan.Ports{Trans: 19040, DNS: 19053, Resolver: 19054}
			must(t, guards(t, d, p).pin())
			wan := l.wan.Attrs().Index
			stopped := func() uint64 { return packets(t, d, wan, abi.VerdictRefused, abi.ReasonUplinkGuard) }

			for i, port := range []int{19053, 19054} {
				sendFrom(t, listen(t, fmt.Sprintf(":%d", port)))
				await(t, "answer to be stopped", func() bool { return stopped() == uint64(i)+1 })
			}
			for _, port := range []int{9040, 9053, 9054, 19040, 19055} { // nobody's, or TCP's
				conn, server := listen(t, fmt.Sprintf(":%d", port)), l.newCapture(t)
				await(t, fmt.Sprintf("packet from port %d", port), func() bool {
					sendFrom(t, conn)
					server.read()
					return server.seen[otherUDP] > 0
				})
			}
			if n := stopped(); n != 2 {
				t.Errorf("%d packets were stopped, want 2", n)
			}
			for i, port := range []string{"19040", "19054"} { // a SYN-ACK has no full socket
				l.knock(t, port, func() bool { return stopped() > 2+uint64(i) })
			}
			streams, err := net.Listen("tcp4", ":19053") // DNSPort is UDP's
			must(t, err)
			t.Cleanup(func() { must(t, streams.Close()) })
			go greet(streams)
			must(t, l.server.do(func() error { return ask("tcp", wanAddr+":19053") }))
		})
	}
}

// The route to a LAN is gone, or its subnets have moved: whatever the router says to
// a device takes the default route.
func TestUplinkGuardStopsWhatGoesToALAN(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	must(t, guards(t, d, l.plan()).pin())
	conn, server := listen(t, ":4711"), l.newCapture(t)
	sendFrom(t, conn) // to others as ever
	await(t, "a packet to a stranger", func() bool {
		server.read()
		return server.seen[otherUDP] > 0
	})
	must(t, netlink.LinkSetDown(l.lan))
	_, err := conn.WriteTo([]byte("answer"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(clientAddr+":4711")))
	must(t, err)
	await(t, "answer to be stopped", func() bool {
		return packets(t, d, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonUplinkGuard) == 1
	})
}

func sendFrom(t *testing.T, conn net.PacketConn) {
	t.Helper()
	_, err := conn.WriteTo([]byte("answer"), net.UDPAddrFromAddrPort(otherUDP.to))
	must(t, err)
}

// knock tries to connect from the uplink to a port of the router's until done.
func (l *lab) knock(t *testing.T, port string, done func() bool) {
	t.Helper()
	listener, err := net.Listen("tcp4", ":"+port)
	must(t, err)
	defer listener.Close()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- l.server.do(func() error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp4", wanAddr+":"+port)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	}()
	await(t, "answer to a SYN to be stopped", done)
	cancel()
	if err := <-result; err == nil {
		t.Errorf("port %s answered by the uplink", port)
	}
}

// Our nftables table is gone, and a rule of the user's redirects DNS to a
// resolver of theirs: the class says that it is Tor's.
func TestDeliveryGuardKeepsWhatIsTorsFromOthers(t *testing.T) {
	needNetfilter(t)
	for _, shift := range []uint8{24, 5} {
		t.Run(fmt.Sprint(shift), func(t *testing.T) {
			l := newLab(t)
			mark := plan.Mark{Shift: shift}
			run(t, fmt.Sprintf(`
				nft add table inet user
				nft add chain inet user mangle { type filter hook prerouting priority -150 ; }
				nft add rule inet user mangle meta l4proto icmp meta mark set %#[1]x
				nft add rule inet user mangle th dport 7000 meta mark set %#[2]x
				nft add rule inet user mangle meta l4proto { tcp, udp } th dport != 7001 th dport != 7000 meta mark set %#[1]x
				nft add chain inet user dns { type nat hook prerouting priority -100 ; }
				nft add rule inet user dns udp dport 53 redirect to :5353`,
				mark.Class(uint32(abi.VerdictDNS)), mark.Class(uint32(abi.VerdictLocal))))
			d := l.open(t, false)
			p := l.plan()
			p.Mark = mark
			p.Ports = plan.Ports{Trans: 19040, DNS: 19053, Resolver: 19054}
			redirected := listen(t, ":5353")
			s := l.newSender(t)
			to := func(protocol uint8, port uint16) datagram {
				return datagram{protocol, netip.AddrPortFrom(netip.MustParseAddr(routerAddr), port)}
			}
			must(t, s.send(to(unix.IPPROTO_UDP, 53))) // the way is open
			expectFrom(t, redirected, clientAddr)

			g := guards(t, d, p)
			if u := g.Unsupported(); len(u) > 0 {
				t.Fatalf("unsupported: %v", u)
			}
			must(t, g.pin())
			for _, port := range []uint16{53, 5353, 9053, 19040, 5000} {
				countedAtDelivery(t, d, l, s, to(unix.IPPROTO_UDP, port))
			}
			for _, port := range []uint16{3128, 9040, 19053} {
				countedAtDelivery(t, d, l, s, to(unix.IPPROTO_TCP, port))
			}
			countedAtDelivery(t, d, l, s, to(unix.IPPROTO_ICMP, 0))

			for _, port := range []uint16{19053, 19054, 7000, 7001} { // Tor's, local, not judged
				conn := listen(t, fmt.Sprintf(":%d", port))
				must(t, s.send(to(unix.IPPROTO_UDP, port)))
				expectFrom(t, conn, clientAddr)
			}
			before := packets(t, d, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonDeliveryGuard)
			for _, port := range []uint16{19040, 19054} {
				must(t, s.send(to(unix.IPPROTO_TCP, port)))
			}
			for _, network := range []string{"tcp4", "tcp6"} {
				l.expectDelivered(t, network, "19040")
			}
			after := packets(t, d, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonDeliveryGuard)
			if after != before {
				t.Errorf("%d packets to Tor's ports were stopped", after-before)
			}
			l.expectNoIPv6(t, d)
			l.expectAnyInterface(t, d)
		})
	}
}

// TestDeliveryGuardKnowsAllTors, and stops what is of none: a redirect of the user's has put a
// mark into the place of ours.
func TestDeliveryGuardKnowsAllTors(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	p.Ports, p.Instances = plan.Ports{Trans: 19040, DNS: 19053, Resolver: 19054}, 2
	must(t, guards(t, d, p).pin())
	s := l.newSender(t)
	to := func(port uint16) datagram {
		return datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(netip.MustParseAddr(routerAddr), port)}
	}
	for instance := range 4 {
		run(t, fmt.Sprintf(`
			nft add table inet user
			nft delete table inet user
			nft add table inet user
			nft add chain inet user mangle { type filter hook prerouting priority -150 ; }
			nft add rule inet user mangle meta l4proto udp meta mark set %#x`,
			p.Mark.Class(uint32(abi.VerdictDNS))|p.Mark.Instance(instance)))
		for port, of := range map[uint16]string{19053: "tor", 19153: "tor", 19054: "the sentry", 19253: ""} {
			if of == "" || instance >= p.Instances {
				countedAtDelivery(t, d, l, s, to(port))
				continue
			}
			conn, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
			must(t, err)
			must(t, s.send(to(port)))
			expectFrom(t, conn, clientAddr)
			must(t, conn.Close())
		}
	}
}

func countedAtDelivery(t *testing.T, d *Datapath, l *lab, s sender, p datagram) {
	t.Helper()
	counted(t, d, s, p, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonDeliveryGuard)
}

// expectDelivered connects from the LAN.
func (l *lab) expectDelivered(t *testing.T, network, port string) {
	t.Helper()
	listener, err := net.Listen(network, ":"+port)
	must(t, err)
	defer listener.Close()
	addr := map[string]string{"tcp4": routerAddr, "tcp6": "fd50::1"}[network]
	must(t, l.client.do(func() error {
		conn, err := net.Dial(network, net.JoinHostPort(addr, port))
		if err != nil {
			return err
		}
		return conn.Close()
	}))
}

// expectNoIPv6 asks a resolver by IPv6.
func (l *lab) expectNoIPv6(t *testing.T, d *Datapath) {
	t.Helper()
	before := packets(t, d, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonDeliveryGuard)
	must(t, l.client.do(func() error {
		conn, err := net.Dial("udp6", "[fd50::1]:53")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("query"))
		return err
	}))
	await(t, "query by IPv6 to be stopped", func() bool {
		return packets(t, d, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonDeliveryGuard) > before
	})
}

// expectAnyInterface sends what has a class by an interface that is no LAN, as
// a LAN that was renamed or moved would.
func (l *lab) expectAnyInterface(t *testing.T, d *Datapath) {
	t.Helper()
	s := sender{from: netip.MustParseAddr(serverAddr)}
	must(t, l.server.do(func() (err error) {
		s.fd, err = rawSocket()
		return err
	}))
	t.Cleanup(func() { unix.Close(s.fd) })
	query := datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(wanAddr + ":53")}
	counted(t, d, s, query, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonDeliveryGuard)
}

// A resolver that speaks TLS or QUIC asks its upstream in clear all the same.
func TestDNSGuardKeepsALANFromEncryptedDNS(t *testing.T) {
	for _, variant := range dnsVariants {
		t.Run(variant.name, func(t *testing.T) {
			if variant.name == programDNS && !lookupTellsInterface() {
				t.Skip("this kernel does not tell sk_lookup the interface (Linux 5.17)")
			}
			l := newLab(t)
			echo(t, "853")
			d := l.open(t, false)
			must(t, l.guardsOf(t, d, l.plan(), variant.without).pin())
			for _, addr := range []string{routerAddr + ":853", "[fd50::1]:853"} {
				l.expectReachable(t, l.client, addr, false)
			}
			l.expectReachable(t, l.server, wanAddr+":853", true)
			l.expectReachable(t, l.here(t), "127.0.0.1:853", true)
		})
	}
}

// With the tc program gone nobody else knows which sources a LAN has, and what
// answers a forged one goes out by the WAN.
func TestDeliveryGuardKeepsForgedSourcesFromAnswers(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	g := guards(t, d, l.plan())
	if u := g.Unsupported(); len(u) > 0 {
		t.Fatalf("unsupported: %v", u)
	}
	must(t, g.pin())
	to := datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(netip.MustParseAddr(routerAddr), 5000)}
	conn := listen(t, ":5000")
	own := l.newSender(t)
	must(t, own.send(to))
	expectFrom(t, conn, clientAddr)

	forged := own
	forged.from = netip.MustParseAddr("203.0.113.9")
	countedAtDelivery(t, d, l, forged, to)
	ping := datagram{unix.IPPROTO_ICMP, netip.AddrPortFrom(netip.MustParseAddr(routerAddr), 0)}
	countedAtDelivery(t, d, l, forged, ping)
	must(t, own.send(to))
	expectFrom(t, conn, clientAddr)
}
