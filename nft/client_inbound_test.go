package nft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

func (l *clientLab) listenOutside(addr string) net.Listener {
	l.t.Helper()
	var ln net.Listener
	err := l.outside.do(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ln.Close() })
	return ln
}

// routeMarked leads what has a mark to a gateway.
func (l *clientLab) routeMarked(mark uint32, gateway string) {
	l.t.Helper()
	const routes = 99
	rule := netlink.NewRule()
	rule.Mark, rule.Table, rule.Priority, rule.Family = mark, routes, 50, unix.AF_INET
	m := mark
	rule.Mask = &m
	everything := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if err := errors.Join(l.router.RuleAdd(rule), l.router.RouteAdd(&netlink.Route{Dst: everything, Gw: net.ParseIP(gateway), Table: routes})); err != nil {
		l.t.Fatal(err)
	}
}

// askFromOutside is what somebody outside gets of the machine.
func (l *clientLab) askFromOutside(network, from, to string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if network == "ping" {
		return answerOr(ping(ctx, l.outside, to))
	}
	return answerOr(ask(ctx, l.outside, network, from, to))
}

// TestWhoAsksTheMachineIsAnswered by TCP, UDP, ping, and by the kernel where nobody listens.
func TestWhoAsksTheMachineIsAnswered(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	for _, host := range []string{wan4, wan6} {
		for _, test := range []struct{ network, to, want string }{
			{"tcp", to(host, "22"), "machine"},
			{"udp", to(host, "22"), "machine"},
			{"udp", to(host, "53"), "machine"},
			{"ping", host, "pong"},
			{"tcp", to(host, "2"), refusedTCP},
			{"udp", to(host, "2"), refusedTCP}, // ICMP, which is that error
		} {
			if got := l.askFromOutside(test.network, "", test.to); got != test.want {
				t.Errorf("%s to %s: %q, want %q", test.network, test.to, got, test.want)
			}
		}
	}
	load(t, `table inet user_marks { chain postrouting { type filter hook postrouting priority 300; oifname "wan0" meta mark & 0x0f000000 != 0x03000000 icmpv6 type != 130-143 counter drop; }; }`)
	if got := l.askFromOutside("tcp", "", to(wan4, "22")); got != "machine" {
		t.Errorf("the class does not stand in the mark where the packet leaves: %s", got)
	}
}

// TestDevicesAreAnswered by their LAN, whatever they ask of the machine.
func TestDevicesAreAnswered(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	p.LANs, p.Local, p.LocalMode = l.lab.plan().LANs, nil, config.LocalNone
	l.apply(p)
	l.classify(`iifname "lan0"`, abi.VerdictLocal)
	for _, network := range []string{"tcp", "udp"} {
		l.mustAnswer("machine", l.client, network, lan4+":22")
	}
	l.mustPing(l.client, lan6, "a ping of the machine")
	l.classify(`iifname "lan0"`, abi.VerdictResolver)
	l.mustAnswer("sentry", l.client, "udp", outside4+":53")
	for _, test := range []struct {
		ready  func(int) error
		domain int
		to     unix.Sockaddr
		want   string
	}{
		{bound(67), unix.AF_INET, sockaddr(client4, 68), "sent"},
		{bound(547), unix.AF_INET6, sockaddr(client6, 546), "sent"},
		{bound(67), unix.AF_INET, sockaddr(outside4, 68), refusedUDP},
		{bound(547), unix.AF_INET6, sockaddr(outside6, 546), refusedUDP},
	} {
		if got := l.send(test.domain, unix.SOCK_DGRAM, 0, test.ready, []byte("?"), test.to); got != test.want {
			t.Errorf("a DHCP server to %v: %s, want %s", test.to, got, test.want)
		}
	}
	l.wantNothingInbound()
	l.classify(`iifname "lan0"`, abi.VerdictNone) // tc is gone
	l.mustAnswer("machine", l.client, "udp", lan4+":80")
	l.wantNothingInbound()
	p.LANs, p.LocalMode = nil, "" // as if the LAN had been renamed
	l.apply(p)
	l.conntrack("-F")
	l.classify(`iifname "lan0"`, abi.VerdictLocal)
	l.mustAnswer("machine", l.client, "udp", lan4+":22")
	l.wantNothingInbound()
}

// wantNothingInbound finds no connection that is taken for begun outside.
func (l *clientLab) wantNothingInbound() {
	l.t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		if marked := l.conntrack("-L", "-f", family, "--mark", "0x03000000/0x0f000000"); marked != "" {
			l.t.Errorf("taken for begun outside:\n%s", marked)
		}
	}
}

// TestALANsPublicSubnetIsLocalToTheMachine though no public one of another interface is.
func TestALANsPublicSubnetIsLocalToTheMachine(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	p.LANs, p.Local, p.Client.Exits = l.lab.plan().LANs, l.lab.plan().Local, nil
	p.Client.Local = nil
	l.apply(p)
	l.serve(l.client, "tcp", ":80", "client")
	l.mustGet(want{0, "tcp", to(client6, "80"), "client"}, want{0, "tcp", to(dmz6, "80"), "trans " + to(dmz6, "80")})
	l.classify(`iifname "lan0"`, abi.VerdictLocal)
	l.mustAnswer("dmz", l.client, "tcp", to(dmz6, "80")) // what is forwarded is not the machine's own
}

// TestOldFlowsAreNotTakenForNewOnes: while a flow of the machine's may be older than the
// table, only what it does not begin itself counts as begun outside.
func TestOldFlowsAreNotTakenForNewOnes(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	if err := Apply(p); err != nil {
		t.Fatal(err)
	}
	heard := l.outside.countAll(t)
	answer := func() string {
		l.fromOutside(odd, []byte("?"))
		l.eventually("it is here", func() bool { return matches(l.conntrack("-L"), fmt.Sprintf(`unknown +%d`, odd)) })
		return l.send(unix.AF_INET, unix.SOCK_RAW, odd, nil, []byte("!"), sockaddr(outside4, 0))
	}
	if got := answer(); got != refusedUDP {
		t.Errorf("an old peer by another protocol gets %s", got)
	}
	if n := heard(); n != 0 {
		t.Errorf("an old peer has heard %d packets", n)
	}
	for _, network := range []string{"tcp", "udp", "ping"} {
		where := to(wan4, "22")
		if network == "ping" {
			where = wan4
		}
		if got := l.askFromOutside(network, "", where); got != "machine" && got != "pong" {
			t.Errorf("meanwhile %s gets %s", network, got)
		}
	}
	forgetOldFlows(t)
	l.conntrack("-F")
	if got := answer(); got != "sent" {
		t.Errorf("later a peer by another protocol gets %s", got)
	}
}

// TestAStrangersDatagramOpensNoPortOfWhoBegins: it need only reach it before the program that
// gets the port asks the same stranger.
func TestAStrangersDatagramOpensNoPortOfWhoBegins(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	p.Client.Ephemeral = 20000
	l.apply(p)
	heard := l.outside.countAll(t)
	for _, site := range []string{site4, site6} {
		own := map[bool]string{true: wan4, false: wan6}[site == site4]
		for _, port := range []string{"20000", "40000", "60999"} {
			err := l.outside.do(func() error { return sendFrom(to(site, "443"), to(own, port)) })
			if err != nil {
				t.Fatal(err)
			}
			l.eventually("it is known", func() bool {
				return matches(l.conntrack("-L", "-f", map[bool]string{true: "ipv4", false: "ipv6"}[site == site4]), "sport=443 dport="+port)
			})
			if got := answerOr("sent", l.own.do(func() error { return sendFrom(to(own, port), to(site, "443")) })); got != refusedUDP {
				t.Errorf("who begins from port %s to %s: %s, want %s", port, site, got, refusedUDP)
			}
		}
	}
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
	l.wantNothingInbound()
	l.serve(nil, "udp", ":19999", "machine")
	if got := l.askFromOutside("udp", "", to(wan4, "19999")); got != "machine" {
		t.Errorf("who serves below gives %s", got)
	}
}

// sendFrom sends a datagram from an address to another.
func sendFrom(from, to string) error {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	conn, err := dialer.Dial("udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("?"))
	return err
}

// TestAForgedSourceOpensNothing: a neighbour's datagram in the name of a site.
func TestAForgedSourceOpensNothing(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	l.serve(nil, "udp", ":500", "machine")
	before := l.drops(RefusedClient)
	heard := l.outside.countAll(t)
	if err := bringUp(l.dmz.nl, "lo", []string{site4 + "/32"}); err != nil {
		t.Fatal(err)
	}
	if err := l.dmz.do(func() error { return sendFrom(to(site4, "500"), to(wan4, "500")) }); err != nil {
		t.Fatal(err)
	}
	l.eventually("the answer is refused", func() bool { return l.drops(RefusedClient) > before })
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
	l.wantNothingInbound()
}

// TestAForgedSourceOfThisMachinesOpensNothing, though the flow has begun while no table was there:
// the kernel asks about such a flow again and again, since nobody can translate it any more.
func TestAForgedSourceOfThisMachinesOpensNothing(t *testing.T) {
	l := newClientLab(t)
	load(t, `table inet user {
		chain out { type filter hook output priority 0; ct state new accept; }
	}`)
	forge := func() {
		for from, at := range map[string]string{site4: wan4, site6: wan6} {
			source, domain := netip.MustParseAddrPort(to(from, "4500")), unix.AF_INET
			if source.Addr().Is6() {
				domain = unix.AF_INET6
			}
			packet := testnet.UDPDatagram(source, netip.MustParseAddrPort(to(at, "4711")), []byte("?"))
			if got := l.send(domain, unix.SOCK_RAW, unix.IPPROTO_RAW, nil, packet, sockaddr(at, 0)); got != "sent" {
				t.Errorf("from %s: %s", from, got)
			}
		}
	}
	forge()
	l.apply(l.plan())
	heard := l.outside.countAll(t)
	forge()
	l.wantNothingInbound()
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
}

// odd is a protocol of which nobody knows anything.
const odd = 99

// fromOutside sends the machine a packet of a protocol.
func (l *clientLab) fromOutside(protocol int, packet []byte) {
	l.t.Helper()
	err := l.outside.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, packet, 0, sockaddr(wan4, 0))
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// TestAStrangersQueryOpensNoWayForQueries: who begins from port 53 gets no answers to it.
func TestAStrangersQueryOpensNoWayForQueries(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	l.serve(nil, "udp", ":4000", "machine")
	if got := l.askFromOutside("udp", site4+":53000", wan4+":4000"); got != "machine" {
		t.Errorf("who begins from another port gets %s", got)
	}
	before := l.drops(DroppedClientUndiverted)
	l.fromOutside(unix.IPPROTO_UDP, []byte{0, 53, 4000 >> 8, 4000 & 0xff, 0, 8, 0, 0})
	l.eventually("the answer is refused", func() bool { return l.drops(DroppedClientUndiverted) > before })
	l.mustDrop(DroppedClientUndiverted, "TCP", func(ctx context.Context) (string, error) {
		return ask(ctx, l.outside, "tcp", holed4+":53", wan4+":22")
	})
}

// TestASimultaneousOpenIsNoAnswer: the SYN of who begins meets one sent to catch it.
func TestASimultaneousOpenIsNoAnswer(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	load(t, `table inet quiet { chain output { type filter hook output priority -300; tcp flags & (rst | ack) == (rst | ack) tcp sport 40000 drop; }; }`)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = ask(ctx, l.outside, "tcp", site4+":443", wan4+":40000") // gets no answer
	}()
	l.eventually("the SYN from outside is known", func() bool { return matches(l.conntrack("-L"), `sport=443 dport=40000`) })
	heard := l.outside.countAll(t)
	conn, err := netDial(l.own, wan4+":40000", site4+":443")
	if err == nil {
		conn.Close()
		t.Error("the connection came about")
	}
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
	cancel()
	<-done
}

func netDial(n *node, from, to string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	err = n.do(func() (err error) {
		conn, err = dialer.Dial("tcp", to)
		return err
	})
	return conn, err
}

// TestAnExemptMarkIsLeftAsItIs also in an answer: rules of the user's may compare all of it.
func TestAnExemptMarkIsLeftAsItIs(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	p.Client.Direct = append(p.Client.Direct, plan.Opening{Prefix: prefixOf(lasting4)})
	l.apply(p)
	load(t, `table inet whole {
	counter exact {}
	chain output { type filter hook output priority -150; udp sport 51820 meta mark set 0xca6c; }
	chain postrouting { type filter hook postrouting priority 300; oifname "wan0" meta l4proto udp meta mark 0xca6c counter name exact; }
}`)
	exact := func() int { return countOf(t, nft(t, "", "list", "counter", "inet", "whole", "exact")) }
	for i, host := range []string{site4, direct4} {
		l.mustGet(want{markUser, "udp", to(host, "80"), "outside"})
		if exact() != i+1 {
			t.Errorf("%s: a rule that compares the whole mark matches %d packets", host, exact())
		}
	}
	conn := serveVPN(t)
	defer conn.Close()
	before := exact()
	if got := l.askFromOutside("udp", "", to(wan4, "51820")); got != "machine" {
		t.Errorf("a peer of the VPN gets %s", got)
	}
	if exact() != before+1 {
		t.Error("a rule that compares the whole mark misses an answer")
	}
}

// serveVPN answers at the port of WireGuard.
func serveVPN(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", wan4+":51820")
	if err != nil {
		t.Fatal(err)
	}
	go answerPackets(conn, "machine")
	return conn
}
