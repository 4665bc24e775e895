package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// Sites that the lab's device talks to through tor.
var (
	site4 = netip.MustParseAddrPort("51.20.0.80:443")
	site6 = netip.MustParseAddrPort("[2a0e:20::80]:443")
)

// tors is what listens in place of tor: at loopback addresses, as tor does.
type tors struct {
	net.Listener
	accepted chan net.Conn
}

// handOver attaches a plan by which TCP is handed to tor's socket, with the rules and routes that
// deliver it here, and a service of the router's that listens where devices connect to.
func (l *lab) handOver(t *testing.T, clsact bool) (*Datapath, *tors) {
	t.Helper()
	d := l.open(t, clsact)
	p := l.plan()
	p.TProxy = true
	apply(t, d, p)
	for _, family := range []string{"-4", "-6"} {
		run(t, fmt.Sprintf("ip %s rule add pref 99 iif lan0 fwmark 0x8000000/0xe000000 lookup %[2]d\nip %[1]s route add local default dev lo table %[2]d", family, plan.RouteTable))
	}
	must(t, l.client.do(func() error {
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.clientIf, Gw: net.ParseIP("fd50::1")})
	}))
	return d, listenAs(t, "[::]:443", false, 0)
}

// listenAs listens at an address, transparent if asked for, with a class for its mark.
func listenAs(t *testing.T, at string, transparent bool, class abi.Verdict) *tors {
	t.Helper()
	config := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) (err error) {
		outside := raw.Control(func(fd uintptr) {
			if !transparent {
				return
			}
			level, option := unix.SOL_IP, unix.IP_TRANSPARENT
			if network == "tcp6" {
				level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
			}
			err = errors.Join(unix.SetsockoptInt(int(fd), level, option, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(uint32(class)<<24)))
		})
		return errors.Join(outside, err)
	}}
	config.SetMultipathTCP(false)
	ln, err := config.Listen(t.Context(), "tcp", at)
	must(t, err)
	out := &tors{ln, make(chan net.Conn, 16)}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			out.accepted <- conn
		}
	}()
	return out
}

// handTo has the programs hand connections to a listener.
func handTo(t *testing.T, d *Datapath, place Listener, ln *tors) {
	t.Helper()
	raw, err := ln.Listener.(*net.TCPListener).SyscallConn()
	must(t, err)
	var failed error
	must(t, raw.Control(func(fd uintptr) { failed = d.HandTo(place, int(fd)) }))
	must(t, failed)
}

// unmark takes a socket's mark.
func unmark(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	must(t, err)
	var failed error
	must(t, raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, 0) }))
	must(t, failed)
}

// connectTo connects the lab's device to a site.
func (l *lab) connectTo(site netip.AddrPort, within time.Duration) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err = l.client.do(func() error {
		dialer := net.Dialer{}
		dialer.SetMultipathTCP(false)
		conn, err = dialer.DialContext(ctx, "tcp", site.String())
		return err
	})
	return conn, err
}

var handed = testnet.Patience(5 * time.Second)

// TestTCPIsHandedToTorsListener, in the name of the site that a device connects to, in both families,
// and never to a service of the router's at the same port; while SYNs flood it as well.
func TestTCPIsHandedToTorsListener(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d, service := l.handOver(t, mode.clsact)
			tor := map[netip.AddrPort]*tors{
				site4: listenAs(t, "127.0.0.1:9040", true, abi.VerdictTor), site6: listenAs(t, "[::1]:9040", true, abi.VerdictTor),
			}
			for site, ln := range tor {
				handTo(t, d, Listener{IPv6: site.Addr().Is6()}, ln)
			}
			for _, cookies := range []string{"1", "2"} { // 2: for all
				sysctl(t, "ipv4/tcp_syncookies", cookies)
				for site, ln := range tor {
					l.talk(t, site, ln)
				}
			}
			select {
			case conn := <-service.accepted:
				t.Errorf("the router's own service has a connection to %v", conn.LocalAddr())
			default:
			}
		})
	}
}

// talk connects to a site by a listener, and sends something to and fro.
func (l *lab) talk(t *testing.T, site netip.AddrPort, ln *tors) {
	t.Helper()
	conn, err := l.connectTo(site, handed)
	if err != nil {
		t.Fatalf("connect to %v: %v", site, err)
	}
	defer conn.Close()
	accepted := <-ln.accepted
	defer accepted.Close()
	if accepted.LocalAddr().String() != site.String() {
		t.Errorf("a connection to %v was taken for one to %v", site, accepted.LocalAddr())
	}
	must(t, errors.Join(conn.SetDeadline(time.Now().Add(handed)), accepted.SetDeadline(time.Now().Add(handed))))
	for _, way := range [][2]net.Conn{{conn, accepted}, {accepted, conn}} {
		_, err := way[0].Write([]byte("word"))
		must(t, err)
		_, err = io.ReadFull(way[1], make([]byte, 4))
		must(t, err)
	}
}

// TestNobodyButTorGetsItsTCP: without a listener of tor's a device is refused at once, though
// somebody else listens at the site's port; so is what a socket without tor's mark has.
func TestNobodyButTorGetsItsTCP(t *testing.T) {
	l := newLab(t)
	d, service := l.handOver(t, false)
	counted := func(v abi.Verdict, r abi.Reason) uint64 { return packets(t, d, l.lan.Attrs().Index, v, r) }
	for _, site := range []netip.AddrPort{site4, site6} {
		if _, err := l.connectTo(site, handed); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connect to %v without tor: %v", site, err)
		}
	}
	if n := counted(abi.VerdictRefused, abi.ReasonTorNotReady); n != 2 {
		t.Errorf("%d connections were refused for want of tor, want 2", n)
	}

	ln := listenAs(t, "127.0.0.1:9040", true, abi.VerdictTor)
	handTo(t, d, Listener{}, ln)
	l.talk(t, site4, ln)
	if there, err := d.HandsTo(Listener{}); !there || err != nil {
		t.Errorf("the listener is not known: %v", err)
	}
	must(t, ln.Close())
	await(t, "the listener to be forgotten", func() bool {
		there, err := d.HandsTo(Listener{})
		must(t, err)
		return !there
	})

	ln = listenAs(t, "127.0.0.1:9040", true, abi.VerdictTor)
	handTo(t, d, Listener{}, ln)
	conn, err := l.connectTo(site4, handed)
	must(t, err)
	defer conn.Close()
	accepted := <-ln.accepted
	defer accepted.Close()
	unmark(t, accepted)
	_, err = conn.Write([]byte("word"))
	must(t, err)
	await(t, "the socket without tor's mark to be nobody's", func() bool {
		return counted(abi.VerdictRefused, abi.ReasonStranger) > 0
	})
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the device is told %v, and %d bytes", err, n)
	}
	if len(service.accepted) > 0 {
		t.Error("the router's own service has a connection of a device's to a site")
	}
}

// TestStrayTCPIsPending: what begins nothing, and is of no connection of tor's, is left to conntrack,
// and not delivered.
func TestStrayTCPIsPending(t *testing.T) {
	l := newLab(t)
	d, service := l.handOver(t, false)
	handTo(t, d, Listener{}, listenAs(t, "127.0.0.1:9040", true, abi.VerdictTor))
	counted(t, d, l.newSender(t), torTCP, l.lan.Attrs().Index, abi.VerdictPending, abi.ReasonNoConnection)
	if len(service.accepted) > 0 {
		t.Error("the router's own service has it")
	}
}
