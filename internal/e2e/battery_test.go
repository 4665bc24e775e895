package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/testnet"
)

// hush is how long a device waits for an answer that it should not get.
const hush = 250 * time.Millisecond

// leakWatch looks for leaks where they would show: on the WAN, and at the
// router's own resolver, which asks the ISP's in clear.
type leakWatch struct {
	lab     *testnet.Lab
	capture *testnet.Capture
	rounds  atomic.Int64
}

func watchLeaks(t testing.TB, lab *testnet.Lab) *leakWatch {
	t.Helper()
	return &leakWatch{lab: lab, capture: captureWAN(t, lab)}
}

// leaks lets both clients try everything and returns what got out, sorted, each
// kind once.
func (w *leakWatch) leaks(t testing.TB) []string {
	t.Helper()
	w.capture.Reset()
	forget(w.lab)
	round := w.rounds.Add(1)
	var wg sync.WaitGroup
	for _, n := range []*testnet.Node{w.lab.Client1, w.lab.Client2} {
		wg.Go(func() {
			sendStrays(t, n)
			sendQueries(t, n, round)
			dialOut(n, round)
		})
	}
	wg.Wait()
	w.settle(t, round)
	return w.found()
}

// settle returns once all that the clients sent has been dealt with: a ping of
// theirs overtakes nothing, and the router's resolver takes its questions in
// order.
func (w *leakWatch) settle(t testing.TB, round int64) {
	t.Helper()
	for _, n := range []*testnet.Node{w.lab.Client1, w.lab.Client2} {
		run(t, n, "ping", "-q", "-c", "2", "-i", "0.01", "-W", "2", testnet.LANRouter4.String())
	}
	for _, server := range []string{"127.0.0.1:53", "[::1]:53"} {
		name := fmt.Sprintf("%s%d.%s", marker, round, testnet.LocalZone)
		if _, err := testnet.DNSQuery(w.lab.Router, netip.MustParseAddrPort(server), name, "A", "udp", patience); err != nil {
			t.Fatal(err)
		}
	}
}

// marker begins the names that settle asks for, which stay in the router.
const marker = "marker"

func (w *leakWatch) found() []string {
	var out []string
	for _, p := range w.capture.NonTor() {
		out = append(out, fmt.Sprintf("wan: %s %v > %v %s", p.Proto, p.Src, p.Dst, fragmentOf(p)))
	}
	for _, q := range w.lab.RouterDNS.Queries() {
		if !strings.HasPrefix(q.Name, marker) {
			out = append(out, fmt.Sprintf("router's resolver: %s %s from %v", q.Proto, q.Name, q.Source))
		}
	}
	for _, q := range w.lab.DNS.Queries() {
		out = append(out, fmt.Sprintf("ISP's resolver: %s %s from %v", q.Proto, q.Name, q.Source.Addr()))
	}
	for _, v := range w.lab.Web.Visits() {
		out = append(out, fmt.Sprintf("web: %s %v", v.Service, v.Source.Addr()))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func fragmentOf(p testnet.Packet) string {
	if p.Fragment {
		return "fragment"
	}
	return ""
}

// queried are the addresses at which a device may ask for names: the router in
// all its guises, the ISP's resolver, a public one, a private one, and
// everybody on the link at once.
func queried(src netip.Addr) []netip.Addr {
	if src.Is4() {
		return append(routerAddrs(src), testnet.Resolver4, testnet.PublicResolver4,
			netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("192.168.50.255"),
			netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("224.0.0.1"))
	}
	return append(routerAddrs(src), testnet.Resolver6, testnet.PublicResolver6,
		netip.MustParseAddr("fd99::53"), netip.MustParseAddr("fe80::ff:fe00:5001"), netip.MustParseAddr("ff02::1"))
}

// sendQueries asks by datagrams, whole and in fragments, whose answers nobody
// waits for. The name says whom.
func sendQueries(t testing.TB, n *testnet.Node, round int64) {
	t.Helper()
	for i, src := range []netip.Addr{n.IPv4, n.ULA, n.IPv6} {
		for j, server := range queried(src) {
			name := fmt.Sprintf("%s-r%d-to-%s.%s", n.Name, round, label(server), testnet.Zone)
			port := uint16(20000 + 1000*round%20000 + int64(100*i+j))
			packet := testnet.UDPDatagram(at(src, port), at(server, testnet.PortDNS), query(name))
			pieces := testnet.UDPDatagram(at(src, port+50), at(server, testnet.PortDNS), query("pieces-"+name))
			for _, p := range append(testnet.Fragments(pieces, 24, port), packet) {
				if err := testnet.SendRaw(n, p); err != nil {
					t.Errorf("dns to %v: %v", server, err)
				}
			}
		}
	}
}

// label makes an address part of a name.
func label(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "_").Replace(a.String())
}

// dialOut does what programs do: connect and look up, by TCP and UDP.
func dialOut(n *testnet.Node, round int64) {
	var wg sync.WaitGroup
	for _, src := range []netip.Addr{n.IPv4, n.IPv6} {
		for _, server := range queried(src) {
			if server.IsMulticast() || server.IsLinkLocalUnicast() {
				continue
			}
			for _, proto := range []string{"udp", "tcp"} {
				wg.Go(func() {
					name := fmt.Sprintf("dial-%s-r%d-%s.%s", n.Name, round, label(server), testnet.Zone)
					_, _ = testnet.DNSQuery(n, at(server, testnet.PortDNS), name, "A", proto, hush)
				})
			}
		}
	}
	for _, server := range []netip.AddrPort{
		at(testnet.Web4, testnet.PortHTTP), at(testnet.Web6, testnet.PortHTTP),
		at(testnet.Other4, testnet.PortHTTPS), at(testnet.Other6, testnet.PortHTTPS),
	} {
		for _, proto := range []string{"tcp", "udp"} {
			wg.Go(func() { _ = testnet.Echo(n, proto, server, hush) })
		}
	}
	wg.Wait()
}

// holdGateOpen keeps the gate open, which without a Tor network the sentry
// would close: with it closed the LAN program refuses what the guards behind it
// should have to stop.
func holdGateOpen(t testing.TB, lab *testnet.Lab) (release func()) {
	t.Helper()
	gates, err := ebpf.LoadPinnedMap(pinDir(t, lab)+"/maps/"+abi.DatapathMapGates, nil)
	if err != nil {
		t.Fatal(err)
	}
	open := func() error { return gates.Put(uint32(0), abi.DatapathGate{Open: 1}) }
	if err := open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer gates.Close()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = open() // the first one went well
			}
		}
	}()
	return func() { cancel(); <-done }
}

// loneTorrc is a configuration for a managed tor that must not look for the Tor
// network: its only authority is a closed port of its own, so that what it does
// itself is not taken for a leak.
func loneTorrc(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	file := filepath.Join(lab.Dir(), "lone.torrc")
	text := "DirAuthority nobody orport=1 v3ident=" + strings.Repeat("A", 40) + " 127.0.0.1:1 " + strings.Repeat("B", 40) + "\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}
