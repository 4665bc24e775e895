package nft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// Beside those of the lab: hosts out on the internet, all of them the outside, one that is
// reached by an excluded interface, the dmz; and a private subnet of the uplink.
const (
	site4, site6     = "9.9.9.9", "2620:fe::9"
	direct4, direct6 = "51.20.0.9", "2a0e::9"
	holed4           = "51.20.1.9" // amid what goes direct, but Tor's
	lasting4         = "51.30.0.9" // direct until a time
	vpn4             = "8.8.4.4"   // by the dmz
	resolver4        = "10.8.0.1"  // its port 53 is excluded
	near4            = "192.168.99.2"
	stub             = "127.0.0.53"
)

// The classes that BPF gives sockets, and a mark of the user's.
const (
	markDirect  = 0x01000000
	markInbound = 0x03000000
	markTor     = 0x08000000
	markUser    = 0xca6c
)

// clientLab is a lab whose router is the machine itself: own is its namespace.
type clientLab struct {
	*lab
	own   *node
	judge *Judge // of the plan that was applied last; nil: somebody else has a say
}

func newClientLab(t *testing.T) *clientLab {
	t.Helper()
	l := &clientLab{lab: newLab(t)}
	ns, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	l.own = &node{ns: ns, nl: l.router}
	err = errors.Join(
		bringUp(l.outside.nl, "lo", []string{site4 + "/32", site6 + "/128", direct4 + "/32", direct6 + "/128", holed4 + "/32", lasting4 + "/32", resolver4 + "/32"}),
		bringUp(l.outside.nl, "eth0", []string{near4 + "/24"}),
		bringUp(l.router, "wan0", []string{"192.168.99.1/24"}),
		bringUp(l.dmz.nl, "lo", []string{vpn4 + "/32"}))
	if err != nil {
		t.Fatal(err)
	}
	l.route(vpn4, dmz4)
	l.serveOriginals()
	for _, network := range []string{"tcp", "udp"} {
		l.serve(nil, network, ":9054", "sentry")
		l.serve(nil, network, stub+":53", "stub")
	}
	l.serveAt(l.own, "machine", "127.0.0.1", "::1", wan4, lan4, wan6)
	l.serveAt(l.outside, "outside", site4, site6, direct4, direct6, lasting4, resolver4, outside4, near4)
	l.serveAt(l.dmz, "dmz", dmz4, dmz6, vpn4)
	return l
}

// serveAt answers at each address by itself: a socket for all of them answers datagrams
// from another one than was asked.
func (l *clientLab) serveAt(n *node, name string, addrs ...string) {
	l.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range addrs {
			for _, port := range []string{"22", "53", "80"} {
				l.serve(n, network, net.JoinHostPort(addr, port), name)
			}
		}
	}
}

// plan is what torbpf would have planned for the machine, without LANs.
func (l *clientLab) plan() *plan.Plan {
	p := l.lab.plan()
	p.LANs, p.Local = nil, nil
	p.Client = &plan.Client{All: true, Ephemeral: 32768}
	for _, s := range []struct{ name, prefix string }{
		{"wan0", "192.168.99.0/24"}, {"dmz0", "172.16.7.0/24"}, {"dmz0", "2001:db8:7::/64"}, {"lan0", "192.168.50.0/24"},
	} {
		p.Client.Local = append(p.Client.Local, plan.LocalSubnet{Name: s.name, Prefix: netip.MustParsePrefix(s.prefix)})
	}
	p.Client.OnLink = []plan.LocalSubnet{{Name: "wan0", Prefix: netip.MustParsePrefix(outside6 + "/64").Masked()}}
	for _, prefix := range []string{"51.20.0.0/24", "51.20.2.0/23", "2a0e::/32"} {
		p.Client.Direct = append(p.Client.Direct, plan.Opening{Prefix: netip.MustParsePrefix(prefix)})
	}
	for _, e := range []config.Entry{
		{Kind: config.KindPort, Service: config.Service{Protocol: 17, Port: 53}, Prefix: netip.MustParsePrefix(resolver4 + "/32")},
		{Kind: config.KindPort, Service: config.Service{Protocol: 6, Port: 22}},
		{Kind: config.KindPort, Service: config.Service{Protocol: 6, Port: 22}, Prefix: netip.MustParsePrefix("51.20.0.0/16")},
		{Kind: config.KindMark, Mark: config.Mark{Value: markUser, Mask: 0x00ffffff}},
		{Kind: config.KindInterface, Interface: "dmz0"},
	} {
		e.Client = true
		p.Client.Rules = append(p.Client.Rules, config.Direct(e))
	}
	p.Client.Rules[2].Policy = config.PolicyTor
	p.Client.Exits = []plan.Exit{{Name: "dmz0", Rule: 4}}
	return p
}

// serveOriginals stands in for tor's TransPort: it answers whom a caller wanted.
func (l *clientLab) serveOriginals() {
	l.t.Helper()
	ln, err := net.Listen("tcp", ":9040")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "trans "+original4or6(conn.(*net.TCPConn))) // a caller who left misses nothing
			_ = conn.Close()
		}
	}()
}

// original4or6 asks conntrack as tor does (SO_ORIGINAL_DST), and refuses whoever is not
// of the loopback address, as its SocksPolicy does.
func original4or6(conn *net.TCPConn) string {
	peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if !peer.IsLoopback() {
		return "refuses " + peer.String()
	}
	const soOriginalDst = 80
	level, size, port, addr := unix.SOL_IP, unix.SizeofSockaddrInet4, 2, 4
	if peer.Is6() {
		level, size, addr = unix.SOL_IPV6, unix.SizeofSockaddrInet6, 8
	}
	buf := make([]byte, size)
	raw, err := conn.SyscallConn()
	if err != nil {
		return err.Error()
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		length := uint32(size)
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), soOriginalDst,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&length)), 0)
	})
	if err != nil || errno != 0 {
		return fmt.Sprint(err, errno)
	}
	ip, _ := netip.AddrFromSlice(buf[addr : addr+peer.BitLen()/8])
	return netip.AddrPortFrom(ip, uint16(buf[port])<<8|uint16(buf[port+1])).String()
}

// call asks as a program of the machine whose socket has a mark, and returns the answer,
// or the error that the program sees.
func (l *clientLab) call(mark int, network, to string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if network == "ping" {
		return answerOr(pingMarked(ctx, l.own, mark, to))
	}
	dialer := net.Dialer{Control: marking(mark)}
	var conn net.Conn
	err := l.own.do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, to)
		return err
	})
	if err != nil {
		return answerOr("", err)
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	if network != "tcp" {
		if _, err := io.WriteString(conn, "?"); err != nil {
			return answerOr("", err)
		}
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	return answerOr(string(buf[:n]), err)
}

// answerOr returns the answer, or the error by its name.
func answerOr(answer string, err error) string {
	var number syscall.Errno
	switch {
	case err == nil:
		return answer
	case errors.As(err, &number):
		return unix.ErrnoName(number)
	}
	return err.Error()
}

// apply is Apply ten minutes ago, and nothing of before is in the way.
func (l *clientLab) apply(p *plan.Plan) {
	l.t.Helper()
	l.lab.apply(p)
	var differences []string
	var err error
	if l.judge, differences, err = InForce(p); err != nil || len(differences) > 0 {
		l.t.Fatalf("the table is not as planned: %q, %v", differences, err)
	}
}

func prefixOf(addr string) netip.Prefix {
	a := netip.MustParseAddr(addr)
	return netip.PrefixFrom(a, a.BitLen())
}
