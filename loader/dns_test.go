package loader

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// dnsVariants are the guards of new and old kernels, loaded deliberately.
var dnsVariants = []struct{ name, without string }{
	{programDNS, programDNSSrc},
	{programDNSSrc, programDNS},
}

// The LAN programs are gone: nothing but the guard of local delivery is left.
func TestDNSGuardKeepsALANFromTheRoutersResolver(t *testing.T) {
	for _, variant := range dnsVariants {
		t.Run(variant.name, func(t *testing.T) {
			if variant.name == programDNS && !lookupTellsInterface() {
				t.Skip("this kernel does not tell sk_lookup the interface (Linux 5.17)")
			}
			l := newLab(t)
			echo(t, "53")
			linkLocal := fmt.Sprintf("[fe80::1%%%d]:53", l.clientIf)
			lan := []string{routerAddr + ":53", wanAddr + ":53", "[fd50::1]:53", linkLocal}
			for _, addr := range lan {
				l.expectReachable(t, l.client, addr, true)
			}
			d := l.open(t, false)
			g := l.guardsOf(t, d, l.plan(), variant.without)
			must(t, g.pin())
			for _, addr := range lan {
				l.expectReachable(t, l.client, addr, false)
			}
			n := packets(t, d, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonDNSGuard)
			if n < uint64(2*len(lan)) {
				t.Errorf("%d look-ups were refused, want one for UDP and TCP to each of %v", n, lan)
			}
			l.expectReachable(t, l.server, wanAddr+":53", true)
			here := l.here(t)
			for _, addr := range []string{"127.0.0.1:53", "[::1]:53", routerAddr + ":53"} {
				l.expectReachable(t, here, addr, true)
			}
			echo(t, "5353")
			l.expectReachable(t, l.client, routerAddr+":5353", true)
		})
	}
}

func TestDNSGuardLetsADirectSourceAsk(t *testing.T) {
	for _, variant := range dnsVariants {
		t.Run(variant.name, func(t *testing.T) {
			if variant.name == programDNS && !lookupTellsInterface() {
				t.Skip("this kernel does not tell sk_lookup the interface (Linux 5.17)")
			}
			l := newLab(t)
			echo(t, "53")
			d := l.open(t, false)
			p := l.plan()
			p.Rules = config.DirectPrefixes(config.KindSource, prefixes(clientAddr+"/32", "fd50::11/128")...)
			l.guardsOf(t, d, p, variant.without)
			l.expectReachable(t, l.client, routerAddr+":53", true)
			l.expectReachable(t, l.client, "[fd50::1]:53", true)
		})
	}
}

// Without nftables what the LAN program marks as DNS goes nowhere.
func TestDNSGuardStandsBehindTheLANProgram(t *testing.T) {
	l := newLab(t)
	echo(t, "53")
	d := l.open(t, false)
	apply(t, d, l.plan())
	for pin := range netfilterGuards[0].pins { // it would drop the packet before, and in silence
		must(t, removeLink(d.linkPin(pin)))
	}
	l.expectReachable(t, l.client, routerAddr+":53", false)
	l.expectReachable(t, l.here(t), "127.0.0.1:53", true)
	must(t, d.Remove())
	l.expectReachable(t, l.client, routerAddr+":53", true)
}

// A broadcast reaches sockets without the look-up that the guard watches.
func TestDNSByBroadcastReachesNoSocket(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	broadcast := netip.MustParseAddr("192.168.50.255")
	p.LocalAddrs = append(p.LocalAddrs, broadcast)
	p.Broadcasts = append(p.Broadcasts, broadcast)
	apply(t, d, p)
	for _, addr := range []netip.Addr{broadcast, netip.MustParseAddr("255.255.255.255")} {
		s := l.newSender(t)
		must(t, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		query := datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(addr, 53)}
		counted(t, d, s, query, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonRouterDNS)
	}
}

// guardsOf attaches the guards with one of the two DNS guards left out.
func (l *lab) guardsOf(t *testing.T, d *Datapath, p *plan.Plan, leftOut string) *Generation {
	t.Helper()
	guards(t, d, p) // makes the directories
	spec, err := abi.LoadDatapath()
	must(t, err)
	must(t, setVariables(spec, p))
	collection, err := ebpf.NewCollection(without(spec, leftOut))
	must(t, err)
	must(t, fillMaps(collection.Maps, p))
	g := &Generation{datapath: d, plan: p, collection: collection}
	t.Cleanup(func() { must(t, g.Close()) })
	must(t, g.attachGuards())
	return g
}

// echo answers UDP and greets TCP at a port of the router, on wildcard sockets
// of both families, as resolvers have them.
func echo(t *testing.T, port string) {
	t.Helper()
	for family, host := range map[string]string{"4": "0.0.0.0", "6": "::"} {
		addr := net.JoinHostPort(host, port)
		packets, err := net.ListenPacket("udp"+family, addr)
		must(t, err)
		streams, err := net.Listen("tcp"+family, addr)
		must(t, err)
		t.Cleanup(func() { must(t, errors.Join(packets.Close(), streams.Close())) })
		go echoPackets(packets.(*net.UDPConn))
		go greet(streams)
	}
}

// echoPackets answers each from the address it was sent to: the control message
// that tells where it arrived says the same of what is sent.
func echoPackets(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	err = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	buffer, control := make([]byte, 512), make([]byte, 512)
	for err == nil {
		n, c, _, from, readErr := conn.ReadMsgUDP(buffer, control)
		if err = readErr; err == nil {
			_, _, err = conn.WriteMsgUDP(buffer[:n], control[:c], from)
		}
	}
}

func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("query"))
		_ = conn.Close()
	}
}

// expectReachable asks from a namespace by UDP and by TCP.
func (l *lab) expectReachable(t *testing.T, ns namespace, addr string, want bool) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		err := ns.do(func() error { return ask(network, addr) })
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s to %s got no answer at all: %v", network, addr, err)
		}
		if (err == nil) != want {
			t.Errorf("%s to %s: %v, want it to be answered: %t", network, addr, err, want)
		}
	}
}

func ask(network, addr string) error {
	conn, err := net.DialTimeout(network, addr, testnet.Patience(5*time.Second))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(testnet.Patience(5 * time.Second))); err != nil {
		return err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("query")); err != nil {
			return err
		}
	}
	_, err = io.ReadFull(conn, make([]byte, len("query")))
	return err
}

// here is the router's own namespace.
func (l *lab) here(t *testing.T) namespace {
	t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return namespace(fd)
}

// A namespace that is gone may leave its name, and its pins, to a new one.
func TestPinsOfAnotherNamespaceAreTakenOver(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	other := newNamespace(t)
	must(t, other.do(func() error {
		p := l.plan()
		p.Uplinks = nil
		g, err := d.ApplyGuards(p)
		if err != nil {
			return err
		}
		return g.Close()
	}))
	apply(t, d, l.plan())
	if n := lookupPrograms(t); n != 1 {
		t.Errorf("%d sk_lookup programs are attached, want 1", n)
	}
	must(t, other.do(func() error {
		n, err := countLookups()
		if n != 0 {
			t.Errorf("%d sk_lookup programs stay in the other namespace", n)
		}
		return err
	}))
}
