package nft

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// A source that neither a LAN nor anybody else has, on whose behalf the client asks.
const (
	forged4 = "203.0.113.9"
	forged6 = "2001:db8:113::9"
)

// TestAnErrorAboutWhatWasDivertedStaysOnTheLANs: while tor is gone the kernel says
// that nobody listens, and quotes the question. To a forged source that is the way
// to the WAN.
func TestAnErrorAboutWhatWasDivertedStaysOnTheLANs(t *testing.T) {
	for _, family := range []struct{ name, forged, asked, network string }{
		{"IPv4", forged4 + "/32", "9.9.9.9:53", "ip4:icmp"},
		{"IPv6", forged6 + "/128", "[2620:fe::fe]:53", "ip6:ipv6-icmp"},
	} {
		t.Run(family.name, func(t *testing.T) {
			l := newLab(t)
			l.apply(l.plan())
			l.classify(`iifname "lan0"`, abi.VerdictNone) // tc is gone
			for _, n := range []*node{l.client, l.outside} {
				addAddr(t, n, family.forged)
			}
			forged := netip.MustParsePrefix(family.forged).Addr()
			heard := listenICMP(t, l.outside, family.network, forged)
			conn, err := dialFrom(l.client, forged, family.asked)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("who?")); err != nil {
				t.Fatal(err)
			}
			// What the router sends later arrives later.
			l.eventually("a ping arrives", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := ping(ctx, nil, forged.String())
				return err == nil
			})
			buf := make([]byte, 256)
			if _, _, err := heard.ReadFrom(buf); err != nil {
				t.Fatal(err)
			}
			if kind := buf[0]; kind != 8 && kind != 128 {
				t.Errorf("first came ICMP type %d, want the router's echo request", kind)
			}
		})
	}
}

func addAddr(t *testing.T, n *node, prefix string) {
	t.Helper()
	link, err := n.nl.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := n.nl.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
}

func listenICMP(t *testing.T, n *node, network string, addr netip.Addr) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := n.do(func() (err error) {
		conn, err = net.ListenPacket(network, addr.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func dialFrom(n *node, from netip.Addr, to string) (net.Conn, error) {
	var conn net.Conn
	err := n.do(func() (err error) {
		dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		conn, err = dialer.Dial("udp", to)
		return err
	})
	return conn, err
}

// TestAForgedSourceIsNotAnsweredWithoutTC: what the router itself says to a source
// that no LAN has would go to the WAN.
func TestAForgedSourceIsNotAnsweredWithoutTC(t *testing.T) {
	for _, family := range []struct{ name, forged, router, bits, to string }{
		{"IPv4", forged4, lan4, "/32", "ip daddr " + forged4}, {"IPv6", forged6, lan6, "/128", "ip6 daddr " + forged6},
	} {
		t.Run(family.name, func(t *testing.T) {
			l := newLab(t)
			l.apply(l.plan())
			l.classify(`iifname "lan0"`, abi.VerdictNone)
			addAddr(t, l.client, family.forged+family.bits)
			heard := l.outside.count(t, "prerouting", family.to)
			conn, err := dialFrom(l.client, netip.MustParseAddr(family.forged), net.JoinHostPort(family.router, "4711"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("is anybody there?")); err != nil {
				t.Fatal(err)
			}
			l.eventually("the datagram is dropped", func() bool { return dropped(t, DroppedUnjudged) == 1 })
			if n := heard(); n != 0 {
				t.Errorf("%d answers went out by the WAN", n)
			}
			if _, err := ping(t.Context(), l.client, family.router); err != nil { // the devices' own are answered
				t.Error(err)
			}
		})
	}
}

func dropped(t *testing.T, guard string) uint64 {
	t.Helper()
	drops, err := Drops()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drops {
		if d.Guard == guard {
			return d.Packets
		}
	}
	return 0
}

// TestAnErrorAboutAnAnswerOfTCEndsThere: tc answers in the name of whom was asked,
// and a device that waits no longer says so. The kernel would look for the socket,
// and the guard of the router's resolver would take that for a question.
func TestAnErrorAboutAnAnswerOfTCEndsThere(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	for _, test := range []struct {
		network, to, from string
		kind              byte
		quoted            []byte // up to the ports
		port              byte
		want              uint64
	}{
		{"ip4:icmp", lan4, client4, 3, quote4(lan4, client4), 53, 1},
		{"ip4:icmp", lan4, client4, 3, quote4(lan4, client4), 123, 1},
		{"ip6:ipv6-icmp", lan6, client6, 1, quote6(lan6, client6), 53, 2},
		{"ip6:ipv6-icmp", lan6, client6, 1, quote6(lan6, client6), 123, 2},
	} {
		conn := listenICMP(t, l.client, test.network, netip.MustParseAddr(test.from))
		message := append([]byte{test.kind, 3, 0, 0, 0, 0, 0, 0}, test.quoted...)
		message = append(message, 0, test.port, 0x9c, 0x40, 0, 8, 0, 0)
		sum := checksum(message) // for IPv6 the kernel has it
		message[2], message[3] = byte(sum>>8), byte(sum)
		if _, err := conn.WriteTo(message, &net.IPAddr{IP: net.ParseIP(test.to)}); err != nil {
			t.Fatal(err)
		}
		if _, err := ping(t.Context(), l.client, test.to); err != nil {
			t.Fatal(err)
		}
		if n := dropped(t, DroppedError); n != test.want {
			t.Errorf("%s about port %d: %d dropped so far, want %d", test.network, test.port, n, test.want)
		}
	}
}

// TestDNSOfAnOlderFlowDoesNotArriveWithoutTC: conntrack asks no redirect about a flow
// it knows, and not all that a device could have begun are cut: one may bear the
// router's own address.
func TestDNSOfAnOlderFlowDoesNotArriveWithoutTC(t *testing.T) {
	l := newLab(t)
	l.serve(nil, "udp", lan4+":53", "resolver")
	conn, err := dialFrom(l.client, netip.MustParseAddr(client4), lan4+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("who?")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	l.apply(l.plan())
	l.classify(`iifname "lan0"`, abi.VerdictNone)
	if _, err := conn.Write([]byte("and who?")); err != nil {
		t.Fatal(err)
	}
	l.eventually("the question is dropped", func() bool { return dropped(t, DroppedUnjudged) == 1 })
}

// TestABlockedClassOfNoConnectionIsDropped: conntrack has no status for what it takes
// for invalid, so that nothing was translated cannot be asked.
func TestABlockedClassOfNoConnectionIsDropped(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.classify(`iifname "lan0" meta l4proto tcp`, abi.VerdictResolver)
	var conn net.PacketConn
	err := l.client.do(func() (err error) {
		conn, err = net.ListenPacket("ip4:tcp", client4)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reset := make([]byte, 20) // its checksum is wrong as well
	reset[0], reset[3], reset[12], reset[13] = 0x9c, 53, 5<<4, tcpRST
	if _, err := conn.WriteTo(reset, &net.IPAddr{IP: net.ParseIP(lan4)}); err != nil {
		t.Fatal(err)
	}
	l.eventually("the segment is dropped", func() bool { return dropped(t, DroppedBlocked) == 1 })
}

func quote4(src, dst string) []byte {
	header := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}
	header = append(append(header, netip.MustParseAddr(src).AsSlice()...), netip.MustParseAddr(dst).AsSlice()...)
	sum := checksum(header)
	header[10], header[11] = byte(sum>>8), byte(sum)
	return header
}

func quote6(src, dst string) []byte {
	header := []byte{0x60, 0, 0, 0, 0, 8, 17, 64}
	return append(append(header, netip.MustParseAddr(src).AsSlice()...), netip.MustParseAddr(dst).AsSlice()...)
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
