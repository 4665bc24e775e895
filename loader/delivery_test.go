package loader

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// The LAN programs are gone, and no look-up is asked about a broadcast.
func TestDeliveryGuardStopsDNSByBroadcast(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	s := l.newSender(t)
	must(t, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	resolver, other := listen(t, ":53"), listen(t, ":5354")
	subnet, all := netip.MustParseAddr("192.168.50.255"), netip.MustParseAddr("255.255.255.255")
	for _, to := range []netip.Addr{subnet, all} { // the way is open
		must(t, s.send(datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(to, 53)}))
		expectFrom(t, resolver, clientAddr)
	}
	p := l.plan()
	p.Broadcasts = []netip.Addr{subnet}
	p.LocalAddrs = append(p.LocalAddrs, subnet)
	for turn := range uint64(4) { // two generations take turns in two places
		g := guards(t, d, p)
		if u := g.Unsupported(); len(u) > 0 {
			t.Fatalf("unsupported: %v", u)
		}
		must(t, g.pin())
		for i, to := range []netip.Addr{subnet, all} {
			must(t, s.send(datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(to, 53)}))
			await(t, "query to be counted", func() bool {
				return packets(t, d, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonDNSGuard) == 2*turn+uint64(i)+1
			})
			must(t, s.send(datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(to, 5354)}))
			expectFrom(t, other, clientAddr)
		}
		own, err := net.Dial("udp4", "127.0.0.1:53")
		must(t, err)
		_, err = own.Write([]byte("query"))
		must(t, err)
		must(t, own.Close())
		expectFrom(t, resolver, "127.0.0.1") // and nothing of the LAN before it
	}
	must(t, d.Remove())
	must(t, s.send(datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(subnet, 53)}))
	expectFrom(t, resolver, clientAddr)
}

// The second place may be taken by what a killed process has left.
func TestDeliveryGuardTakesThePlaceOfAStrayLink(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	g := guards(t, d, l.plan())
	collection, err := g.loadDelivery()
	must(t, err)
	defer collection.Close()
	pin := d.linkPin("delivery4")
	stray, err := link.AttachNetfilter(link.NetfilterOptions{
		Program:        collection.Programs[abi.GuardsProgTorbpfDelivery],
		ProtocolFamily: link.NetfilterProtoIPv4, Hook: link.NetfilterInetLocalIn, Priority: plan.PriorityDelivery + 1,
	})
	must(t, err)
	must(t, stray.Pin(newPin(pin)))
	must(t, stray.Close())
	apply(t, d, l.plan())
	if _, err := os.Stat(newPin(pin)); !os.IsNotExist(err) {
		t.Errorf("the stray link stays: %v", err)
	}
}

// What the verifier says of a program on a kernel that knows such programs is
// about the program: going on without it would hide that.
func TestRefusedDeliveryGuardIsNoLackOfTheKernel(t *testing.T) {
	needNetfilter(t)
	spec, err := abi.LoadGuards()
	must(t, err)
	program := spec.Programs[abi.GuardsProgTorbpfDelivery]
	program.Instructions = asm.Instructions{asm.LoadMem(asm.R0, asm.R1, 4096, asm.DWord), asm.Return()}
	_, err = ebpf.NewCollection(spec)
	var refused *ebpf.VerifierError
	if !errors.As(err, &refused) {
		t.Fatalf("a program that reads beyond its context loads: %v", err)
	}
	if notSupported(err) {
		t.Errorf("taken for a lack of the kernel: %v", err)
	}
}

func needNetfilter(t *testing.T) {
	t.Helper()
	if lacksNetfilter() {
		t.Skip("this kernel is older than BPF programs at netfilter hooks (Linux 6.4)")
	}
}

func lacksNetfilter() bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version < 6<<16|4<<8
}

func listen(t *testing.T, addr string) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp4", addr)
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return conn
}

// expectFrom wants the next datagram to come from an address.
func expectFrom(t *testing.T, conn net.PacketConn, addr string) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(testnet.Patience(5*time.Second))))
	_, from, err := conn.ReadFrom(make([]byte, 64))
	must(t, err)
	if host, _, err := net.SplitHostPort(from.String()); err != nil || host != addr {
		t.Errorf("a datagram came from %s, want it from %s", from, addr)
	}
}

// TestDeliveryGuardFindsAFreePlace: who unmounts our bpffs may leave links in copies
// of the mount, which nobody can name any more.
func TestDeliveryGuardFindsAFreePlace(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	collection, err := guards(t, d, l.plan()).loadDelivery()
	must(t, err)
	defer collection.Close()
	for priority := int32(plan.PriorityDelivery + 1); priority < plan.PriorityDelivery+4; priority++ {
		stray, err := link.AttachNetfilter(link.NetfilterOptions{
			Program:        collection.Programs[abi.GuardsProgTorbpfDelivery],
			ProtocolFamily: link.NetfilterProtoIPv6, Hook: link.NetfilterInetLocalIn, Priority: priority,
		})
		must(t, err)
		defer stray.Close()
	}
	for range 3 {
		apply(t, d, l.plan())
	}
}

// TestLastGuardsReportWhatTheyStop with its addresses and ports, for the alarm.
func TestLastGuardsReportWhatTheyStop(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	s := l.newSender(t)
	must(t, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	p := l.plan()
	subnet := netip.MustParseAddr("192.168.50.255")
	p.Broadcasts = []netip.Addr{subnet}
	p.LocalAddrs = append(p.LocalAddrs, subnet)
	run(t, `
		nft add table inet user
		nft add chain inet user mangle { type filter hook prerouting priority -150 ; }
		nft add rule inet user mangle th dport 9 meta mark set 0x08000000`) // class tor
	must(t, guards(t, d, p).pin())
	reader, err := d.Refusals()
	must(t, err)
	defer reader.Close()
	router := netip.MustParseAddr(routerAddr)
	for _, c := range []struct {
		datagram
		reason abi.Reason
		length int
	}{
		{datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(router, 53)}, abi.ReasonDNSGuard, 0},
		{datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(subnet, 53)}, abi.ReasonDNSGuard, 28},
		{datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(router, 9)}, abi.ReasonDeliveryGuard, 28},
	} {
		must(t, s.send(c.datagram))
		got, ok, err := reader.Next(testnet.Patience(5 * time.Second))
		must(t, err)
		if !ok || got.Reason != c.reason || got.Dst != c.to || got.Src.Addr() != s.from ||
			got.Protocol != unix.IPPROTO_UDP || got.Ifindex != l.lan.Attrs().Index || got.Length < c.length {
			t.Errorf("of a datagram to %v it is reported: %t %+v, want %s", c.to, ok, got, c.reason)
		}
	}
}
