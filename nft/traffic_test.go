package nft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serve answers everything on an address with a name, until the test ends. A
// nil node is the router.
func (l *lab) serve(n *node, network, addr, name string) {
	l.t.Helper()
	err := within(n, func() error {
		if network == "udp" {
			conn, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			l.t.Cleanup(func() { conn.Close() })
			go answerPackets(conn, name)
			return nil
		}
		ln, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { ln.Close() })
		go answerConnections(ln, name)
		return nil
	})
	if err != nil {
		l.t.Fatalf("serve %s %s: %v", network, addr, err)
	}
}

func within(n *node, fn func() error) error {
	if n == nil {
		return fn()
	}
	return n.do(fn)
}

func answerPackets(conn net.PacketConn, name string) {
	buf := make([]byte, 64)
	for {
		_, peer, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := conn.WriteTo([]byte(name), peer); err != nil {
			return
		}
	}
}

func answerConnections(ln net.Listener, name string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, name) // a caller who left misses nothing
		_ = conn.Close()
	}
}

// ask sends a packet or connects, from an address if one is given, and returns
// what comes back.
func ask(ctx context.Context, n *node, network, from, to string) (string, error) {
	var dialer net.Dialer
	if from != "" {
		local := netip.MustParseAddrPort(from)
		dialer.LocalAddr = net.TCPAddrFromAddrPort(local)
		if network == "udp" {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
	}
	var conn net.Conn
	err := within(n, func() (err error) {
		conn, err = dialer.DialContext(ctx, network, to)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	if network == "udp" {
		if _, err := io.WriteString(conn, "?"); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 64)
	read, err := conn.Read(buf)
	return string(buf[:read]), err
}

// ping sends one ICMP echo request and waits for the reply.
func ping(ctx context.Context, n *node, to string) (string, error) { return pingMarked(ctx, n, 0, to) }

// pingMarked does so by a socket that has a mark.
func pingMarked(ctx context.Context, n *node, mark int, to string) (string, error) {
	network, request, own := "ip4:icmp", []byte{8, 0, 0, 0, 0, 1, 0, 1}, "0.0.0.0"
	if strings.Contains(to, ":") {
		network, request, own = "ip6:ipv6-icmp", []byte{128, 0, 0, 0, 0, 1, 0, 1}, "::"
	} else {
		request[2], request[3] = 0xf7, 0xfd // the checksum; for IPv6 the kernel has it
	}
	var conn net.PacketConn
	err := within(n, func() (err error) {
		listen := net.ListenConfig{Control: marking(mark)}
		conn, err = listen.ListenPacket(ctx, network, own)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	addr := netip.MustParseAddr(to)
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	for {
		_, peer, err := conn.ReadFrom(buf)
		if err != nil {
			return "", err
		}
		if peer.String() == to && (buf[0] == 0 || buf[0] == 129) {
			return "pong", nil
		}
	}
}

// marking gives a socket a mark (SO_MARK) before it sends anything.
func marking(mark int) func(network, address string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) }), err)
	}
}

// interrupt ends what waits on a connection when the context ends.
func interrupt(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails once closed, when nothing waits
	})
}

// countFrom counts what arrives at the node from an address, neighbour
// discovery aside.
func (n *node) countFrom(t *testing.T, addr string) func() int {
	family := "ip"
	if netip.MustParseAddr(addr).Is6() {
		family = "ip6"
	}
	return n.count(t, "prerouting", family+" saddr "+addr+" meta l4proto != ipv6-icmp")
}

func (n *node) count(t *testing.T, hook, match string) func() int {
	t.Helper()
	n.load(t, fmt.Sprintf(`
table inet watch {
	counter seen {}
	chain %[1]s { type filter hook %[1]s priority -300; %[2]s counter name seen; }
}`, hook, match))
	return func() int { return countOf(t, n.nft(t, "", "list", "counter", "inet", "watch", "seen")) }
}

// countOf reads the number of packets in what nft lists.
func countOf(t *testing.T, listing string) int {
	t.Helper()
	m := packetsPattern.FindStringSubmatch(listing)
	if m == nil {
		t.Fatalf("no counter in:\n%s", listing)
	}
	packets, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return packets
}

// conntrack runs the program of that name on the router.
func (l *lab) conntrack(args ...string) string {
	l.t.Helper()
	out, err := exec.Command("conntrack", args...).Output()
	if err != nil {
		l.t.Fatalf("conntrack: %v", err)
	}
	return string(out)
}
