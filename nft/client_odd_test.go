package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// send opens a raw or datagram socket on the machine, readies it, and sends a packet.
func (l *clientLab) send(domain, kind, protocol int, ready func(fd int) error, packet []byte, to unix.Sockaddr) string {
	l.t.Helper()
	err := l.own.do(func() error {
		fd, err := unix.Socket(domain, kind, protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if ready != nil {
			if err := ready(fd); err != nil {
				return err
			}
		}
		return unix.Sendto(fd, packet, 0, to)
	})
	return answerOr("sent", err)
}

func sockaddr(host string, port int) unix.Sockaddr {
	a := netip.MustParseAddr(host)
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

// TestUnconnectedSocketsAreJudged by each packet, mapped IPv4 as IPv4.
func TestUnconnectedSocketsAreJudged(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	heard := l.outside.countAll(t)
	for _, test := range []struct {
		domain, kind, protocol int
		host                   string
		port                   int
		want                   string
	}{
		{unix.AF_INET, unix.SOCK_DGRAM, 0, site4, 443, refusedUDP},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0, site6, 443, refusedUDP},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0, "::ffff:" + site4, 443, refusedUDP},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0, "::ffff:" + site4, 53, "sent"},
		{unix.AF_INET, unix.SOCK_RAW, 47, site4, 0, refusedUDP},
		{unix.AF_INET6, unix.SOCK_RAW, 132, site6, 0, refusedUDP},
	} {
		if got := l.send(test.domain, test.kind, test.protocol, nil, []byte("?"), sockaddr(test.host, test.port)); got != test.want {
			t.Errorf("protocol %d to %s port %d: %s, want %s", test.protocol, test.host, test.port, got, test.want)
		}
	}
	l.mustGet(want{0, "tcp", "[::ffff:" + site4 + "]:80", "trans " + site4 + ":80"})
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
}

// TestALaterFragmentIsRefused but to where all goes directly: it hides its port, and may
// finish a query.
func TestALaterFragmentIsRefused(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	for _, test := range []struct{ host, want string }{
		{site4, refusedUDP}, {near4, refusedUDP}, {dmz4, refusedUDP}, {vpn4, refusedUDP}, {"169.254.9.9", refusedUDP}, {direct4, "sent"},
	} {
		ready := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_NODEFRAG, 1) }
		if got := l.send(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW, ready, fragment4(test.host, unix.IPPROTO_UDP, 8), sockaddr(test.host, 0)); got != test.want {
			t.Errorf("to %s: %s, want %s", test.host, got, test.want)
		}
	}
	heard := l.outside.count(t, "prerouting", "exthdr frag exists")
	for _, host := range []string{site6, direct6} {
		l.send(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_FRAGMENT, nil, laterPiece6, sockaddr(host, 0))
	}
	if got := l.call(0, "udp", to(direct6, "80")); got != "outside" { // behind it nothing is on its way
		t.Errorf("a whole packet: %s", got)
	}
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d pieces of IPv6 packets", n)
	}
}

// laterPiece6 is what follows an IPv6 header: UDP, at an offset of 8, and 8 bytes.
var laterPiece6 = []byte{unix.IPPROTO_UDP, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0}

// fragment4 is a piece of an IPv4 packet, from an offset on, with 8 bytes.
func fragment4(host string, protocol byte, offset uint16) []byte {
	to := netip.MustParseAddr(host).As4()
	packet := make([]byte, 28)
	packet[0], packet[8], packet[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(packet[2:], 28)
	binary.BigEndian.PutUint16(packet[4:], 7) // identification
	binary.BigEndian.PutUint16(packet[6:], offset/8)
	copy(packet[16:], to[:])
	return packet
}

// TestWhatALinkNeedsGoesOut in both modes of local subnets.
func TestWhatALinkNeedsGoesOut(t *testing.T) {
	l := newClientLab(t)
	for _, mode := range []config.LocalMode{config.LocalConnected, config.LocalNone} {
		p := l.plan()
		p.LocalMode = mode
		l.apply(p)
		group := "sent"
		if mode == config.LocalNone {
			group = refusedUDP
		}
		dhcp := bound(68)
		for _, test := range []struct {
			what, want string
			domain     int
			ready      func(int) error
			to         unix.Sockaddr
		}{
			{"mDNS", group, unix.AF_INET, toDevice("wan0"), sockaddr("224.0.0.251", 5353)},
			{"mDNS over IPv6", group, unix.AF_INET6, toDevice("wan0"), sockaddr("ff02::fb", 5353)},
			{"a broadcast", group, unix.AF_INET, toDevice("wan0"), sockaddr("255.255.255.255", 9)},
			{"link-local where no interface has such an address", refusedUDP, unix.AF_INET, toDevice("wan0"), sockaddr("169.254.9.9", 9)},
			{"link-local over IPv6", group, unix.AF_INET6, toDevice("wan0"), sockaddr("fe80::9", 9)},
			{"DHCP", "sent", unix.AF_INET, both(dhcp, toDevice("wan0")), sockaddr("255.255.255.255", 67)},
			{"DHCP, of a server of its subnet", group, unix.AF_INET, dhcp, sockaddr(near4, 67)},
			{"DHCP, of a server elsewhere", refusedUDP, unix.AF_INET, dhcp, sockaddr(outside4, 67)},
			{"DHCPv6", "sent", unix.AF_INET6, both(bound(546), toDevice("wan0")), sockaddr("ff02::1:2", 547)},
			{"DHCPv6, of a server of its link", "sent", unix.AF_INET6, both(bound(546), toDevice("wan0")), sockaddr("fe80::9", 547)},
			{"DHCPv6, of a server elsewhere", refusedUDP, unix.AF_INET6, bound(546), sockaddr(outside6, 547)},
			{"another port than DHCP's", refusedUDP, unix.AF_INET, bound(69), sockaddr(outside4, 67)},
			{"another port than DHCPv6's", refusedUDP, unix.AF_INET6, bound(546), sockaddr(outside6, 548)},
		} {
			if got := l.send(test.domain, unix.SOCK_DGRAM, 0, test.ready, []byte("?"), test.to); got != test.want {
				t.Errorf("local %q: %s: %s, want %s", mode, test.what, got, test.want)
			}
		}
	}
}

// TestWhatRunsByTorTellsTheLinkNothing but what the kernel itself says there.
func TestWhatRunsByTorTellsTheLinkNothing(t *testing.T) {
	l := newClientLab(t)
	for _, all := range []bool{true, false} {
		p := l.plan()
		p.Client.All, p.LocalMode = all, config.LocalReserved
		p.Client.Direct = append(p.Client.Direct, plan.Opening{Prefix: toMany[0]}, plan.Opening{Prefix: toMany[2]})
		l.apply(p)
		for _, test := range []struct {
			domain, port int
			to           string
			toPort       int
		}{
			{unix.AF_INET, 0, "224.0.0.251", 5353},
			{unix.AF_INET, 0, "239.255.255.250", 1900},
			{unix.AF_INET, 0, "255.255.255.255", 9},
			{unix.AF_INET6, 0, "ff02::fb", 5353},
			{unix.AF_INET, 68, "255.255.255.255", 67},
			{unix.AF_INET6, 546, "ff02::1:2", 547},
		} {
			ready := func(fd int) error {
				return errors.Join(toDevice("wan0")(fd), bound(test.port)(fd), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, markTor))
			}
			if got := l.send(test.domain, unix.SOCK_DGRAM, 0, ready, []byte("?"), sockaddr(test.to, test.toPort)); got != refusedUDP {
				t.Errorf("all %v: to %s port %d: %s, want %s", all, test.to, test.toPort, got, refusedUDP)
			}
		}
		ready := both(toDevice("wan0"), both(withHops(255), func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, markTor) }))
		if got := l.send(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, ready, []byte{135, 0, 0, 0, 0, 0, 0, 0}, sockaddr("ff02::2", 0)); got != "sent" {
			t.Errorf("neighbour discovery: %s", got)
		}
	}
}

// TestLinkLocalIsLocalWhereAnInterfaceIsOnSuchALink and nowhere else.
func TestLinkLocalIsLocalWhereAnInterfaceIsOnSuchALink(t *testing.T) {
	l := newClientLab(t)
	if err := errors.Join(bringUp(l.outside.nl, "eth0", []string{"169.254.9.9/16"}), bringUp(l.router, "wan0", []string{"169.254.9.1/16"})); err != nil {
		t.Fatal(err)
	}
	l.serve(l.outside, "udp", "169.254.9.9:80", "outside")
	p := l.plan()
	p.Client.Local = append(p.Client.Local, plan.LocalSubnet{Name: "wan0", Prefix: netip.MustParsePrefix("169.254.0.0/16")})
	l.apply(p)
	l.mustGet(want{0, "udp", "169.254.9.9:80", "outside"})
	l.route("169.254.169.254", dmz4)
	p.Client.Exits = nil
	l.apply(p)
	l.mustGet(want{0, "udp", "169.254.169.254:80", refusedUDP}, want{0, "tcp", "169.254.169.254:80", "trans 169.254.169.254:80"})
}

// both readies a socket in two ways.
func both(first, second func(fd int) error) func(fd int) error {
	return func(fd int) error { return errors.Join(first(fd), second(fd)) }
}

// toDevice binds a socket to an interface, and lets it send to all.
func toDevice(name string) func(fd int) error {
	return func(fd int) error {
		return errors.Join(unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	}
}

// bound binds a socket to a port of all addresses.
func bound(port int) func(fd int) error {
	return func(fd int) error {
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain == unix.AF_INET {
			return errors.Join(err, unix.Bind(fd, &unix.SockaddrInet4{Port: port}))
		}
		return unix.Bind(fd, &unix.SockaddrInet6{Port: port})
	}
}

// TestASocketBoundToAnInterfaceIsNoWayOut: its packets are redirected, but would take that
// interface.
func TestASocketBoundToAnInterfaceIsNoWayOut(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	heard := l.outside.countAll(t)
	for _, host := range []string{site4, site6} {
		domain := unix.AF_INET
		if netip.MustParseAddr(host).Is6() {
			domain = unix.AF_INET6
		}
		before := l.drops(DroppedClientUndiverted)
		if got := l.send(domain, unix.SOCK_DGRAM, 0, toDevice("wan0"), []byte("?"), sockaddr(host, 53)); got != refusedUDP {
			t.Errorf("a query to %s: %s", host, got)
		}
		if l.drops(DroppedClientUndiverted) == before {
			t.Errorf("a query to %s is not counted", host)
		}
	}
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
}

// TestARouteThatAMarkOfTheUsersChangesIsNoWayOut: later than what asks for the interface.
func TestARouteThatAMarkOfTheUsersChangesIsNoWayOut(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	l.apply(p)
	l.mustGet(want{0, "udp", to(vpn4, "80"), "dmz"})
	l.routeMarked(0x5, outside4)
	load(t, `table ip user_route { chain output { type route hook output priority 50; udp dport 80 meta mark set meta mark | 0x5; }; }`)
	for _, host := range []string{vpn4, dmz4} {
		before := l.drops(DroppedClientElsewhere)
		l.judge = nil
		l.mustGet(want{0, "udp", to(host, "80"), refusedUDP})
		if l.drops(DroppedClientElsewhere) == before {
			t.Errorf("what went to %s is not counted", host)
		}
		p.Client.Exits = nil // the next one is local
		l.apply(p)
	}
}

// TestAConnectionFromBeforeIsReset at its next packet, whoever sends it.
func TestAConnectionFromBeforeIsReset(t *testing.T) {
	l := newClientLab(t)
	conn, peer := l.connectionFromBefore()
	l.apply(l.plan())
	heard := l.outside.countAll(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer interrupt(ctx, conn)()
	_, _ = io.WriteString(conn, "still there?") // what becomes of it the read tells
	if _, err := conn.Read(make([]byte, 1)); answerOr("", err) != "ECONNRESET" {
		t.Errorf("the connection goes on: %v", err)
	}
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
	peer.Close()
}

// TestAForgottenConnectionIsNotInbound although the next packet that conntrack sees is its
// peer's.
func TestAForgottenConnectionIsNotInbound(t *testing.T) {
	l := newClientLab(t)
	_, peer := l.connectionFromBefore()
	l.apply(l.plan())
	heard := l.outside.countAll(t)
	before := l.drops(DroppedClientUndiverted)
	l.conntrack("-F")
	if _, err := io.WriteString(peer, "still there?"); err != nil {
		t.Fatal(err)
	}
	l.eventually("the answer is refused", func() bool { return l.drops(DroppedClientUndiverted) > before })
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
}

// connectionFromBefore is one that conntrack knows, of the machine and a site.
func (l *clientLab) connectionFromBefore() (own, peer net.Conn) {
	l.t.Helper()
	load(l.t, `table inet user { chain input { type filter hook input priority 0; ct state established accept; }; }`)
	ln := l.listenOutside(site4 + ":443")
	own, err := netDial(l.own, wan4+":0", site4+":443")
	if err != nil {
		l.t.Fatal(err)
	}
	if peer, err = ln.Accept(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { own.Close(); peer.Close() })
	return own, peer
}

// TestWithoutItsChainsNothingLeaves whichever of them somebody empties.
func TestWithoutItsChainsNothingLeaves(t *testing.T) {
	for _, test := range []struct{ chain, tcp, udp string }{
		{chainClientClassify, refusedTCP, refusedUDP},
		{chainClientDivert, refusedTCP, refusedUDP},
		{chainClientGuard, "", refusedUDP},
	} {
		t.Run(test.chain, func(t *testing.T) {
			l := newClientLab(t)
			l.apply(l.plan())
			load(t, "flush chain inet torbpf "+test.chain)
			l.judge = nil
			if test.tcp != "" {
				l.mustGet(want{0, "tcp", to(site4, "80"), test.tcp})
			}
			l.mustGet(want{0, "udp", to(site4, "53"), test.udp}, want{0, "udp", to(site6, "80"), test.udp})
		})
	}
}

// TestAForgedSourceIsNotRedirected: Tor's answer would go out for it, in clear.
func TestAForgedSourceIsNotRedirected(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	heard := l.outside.countAll(t)
	for _, test := range []struct {
		domain           int
		from, to, answer string
	}{
		{unix.AF_INET, "8.8.4.4", site4, refusedUDP},
		{unix.AF_INET6, "2001:4860::8844", site6, refusedUDP},
		{unix.AF_INET6, "::", site6, refusedUDP},
		{unix.AF_INET, wan4, site4, "sent"},
		{unix.AF_INET6, wan6, site6, "sent"},
		{unix.AF_INET, lan4, site4, "sent"},
	} {
		for _, port := range []uint16{80, 53} {
			from, to := netip.MustParseAddr(test.from), netip.MustParseAddr(test.to)
			syn := testnet.TCPSegment(netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, port), testnet.FlagSYN, 1, 0, nil)
			if got := l.send(test.domain, unix.SOCK_RAW, unix.IPPROTO_RAW, nil, syn, sockaddr(test.to, 0)); got != test.answer {
				t.Errorf("from %s to %s port %d: %s, want %s", test.from, test.to, port, got, test.answer)
			}
		}
	}
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
}
