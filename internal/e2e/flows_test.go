package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// TestOldFlowsEnd: what a device has open in clear when torbpf comes ends there
// and then, and no packet outside tells of it: neither the device's own, nor an
// answer of the router's to a peer that goes on sending.
func TestOldFlowsEnd(t *testing.T) {
	t.Run("masqueraded", func(t *testing.T) {
		lab := torLab(t)
		userRules(t, lab, "ip6", `chain postrouting {
			type nat hook postrouting priority srcnat; policy accept;
			oifname "eth0" masquerade
		}`)
		checkOldFlowsEnd(t, lab, true)
	})
	// Without a stateful rule of the user's the kernel does not track IPv6, so
	// nobody knows what there was, nor who began it.
	t.Run("IPv6 that nobody tracked", func(t *testing.T) {
		checkOldFlowsEnd(t, torLab(t), false)
	})
}

// checkOldFlowsEnd opens flows and attaches. Those that are tracked must end.
// Others must be stopped: a peer that goes on may still be heard.
func checkOldFlowsEnd(t *testing.T, lab *testnet.Lab, tracked6 bool) {
	peers := newTalkers(t, lab)
	serveFlows(t, lab, testnet.Web4, testnet.Web6)
	var flows, heard []*flow
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		for _, server := range []netip.Addr{testnet.Web4, testnet.Web6} {
			flows = append(flows,
				openFlow(t, n, "tcp", at(server, portFlows)),
				openFlow(t, n, "udp", at(server, testnet.PortEcho)))
		}
		flows = append(flows, peers.greet(t, n, testnet.Other4))
		heard = append(heard, peers.greet(t, n, testnet.Other6))
	}
	downloads := []io.Reader{startDownload(t, lab.Client1, largePage(testnet.Web4))}
	download6 := startDownload(t, lab.Client2, largePage(testnet.Web6))
	if tracked6 {
		flows, heard, downloads = append(flows, heard...), nil, append(downloads, download6)
	}
	pings := pinger{lab.Client1, 77}
	before := captureWAN(t, lab)
	pings.send(t)
	eventually(t, patience, "pings in clear before attach", func() error { return pings.seen(before) })
	asked := openFlow(t, lab.Client1, "udp", at(testnet.Resolver4, testnet.PortDNS))
	router := openFlow(t, lab.Router, "tcp", at(testnet.Web4, portFlows))

	attach(t, lab, lan)
	forget(lab)
	capture := captureWAN(t, lab)
	mustTorbpf(t, lab, "status") // that there was something to stop is no alarm
	pings.send(t)
	if err := asked.send(leaktest.Query("again." + testnet.Zone)); err != nil {
		t.Log("a query on an old socket:", err)
	}
	var checks []func() error
	for _, f := range flows {
		checks = append(checks, f.ends)
	}
	for _, d := range downloads {
		checks = append(checks, func() error { return cutOff(d) })
	}
	inParallel(t, checks)
	for _, f := range heard {
		for range 20 {
			_ = f.send([]byte("this must not pass")) // refused, as it should be
		}
	}
	peers.awaitMore(t, capture)
	if err := router.echo(); err != nil {
		t.Errorf("the router's own connection did not survive: %v", err)
	}
	checkServersSawExitsOnlyIfAny(t, lab)
	for _, p := range stopped(t, capture) {
		if !ofRouter(p, router) {
			t.Errorf("on the WAN: %v", p)
		}
	}
}

// TestASessionWithTheRouterGoesOn, such as SSH from a device of the LAN by which somebody attaches it.
func TestASessionWithTheRouterGoesOn(t *testing.T) {
	lab := torLab(t)
	service := lab.NewServices(lab.Router)
	var sessions []*flow
	for _, own := range []netip.Addr{testnet.LANRouter4, testnet.LANRouter6} {
		if err := service.ServeTCPEcho(at(own, portFlows)); err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, openFlow(t, lab.Client1, "tcp", at(own, portFlows)))
	}
	attach(t, lab, lan)
	for _, s := range sessions {
		if err := s.echo(); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

// TestWhatIsBeingOpenedToTheRouterEnds: a device has asked in somebody else's name before attach, and the router
// would go on answering by the WAN.
func TestWhatIsBeingOpenedToTheRouterEnds(t *testing.T) {
	lab := torLab(t)
	n := lab.Client1
	forged := map[netip.AddrPort]netip.AddrPort{
		netip.MustParseAddrPort("51.29.0.9:4321"): at(testnet.LANRouter4, testnet.PortDNS), // where nobody is
		at(netip.IPv6Unspecified(), 4321):         at(testnet.LANRouter6, testnet.PortDNS),
	}
	var frames [][]byte
	for from, to := range forged {
		etherType := uint16(unix.ETH_P_IP)
		if from.Addr().Is6() {
			etherType = unix.ETH_P_IPV6
		}
		frames = append(frames, testnet.Frame(n.GatewayMAC, n.MAC, etherType, testnet.TCPSegment(from, to, testnet.FlagSYN, 1, 0, nil)))
	}
	opening := func() string { return run(t, lab.Router, "ss", "-Htn", "state", "syn-recv", "sport", "53") }
	if err := n.SendFrames("eth0", frames); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the router to answer", func() error {
		if got := opening(); strings.Count(got, "\n") != len(frames) {
			return errors.New(got)
		}
		return nil
	})
	attach(t, lab, lan)
	if left := opening(); left != "" {
		t.Errorf("after attach these are still being opened:\n%s", left)
	}
}

// userRules adds a table of the user's own to the router for the test.
func userRules(t testing.TB, lab *testnet.Lab, family, rules string) {
	t.Helper()
	rulesOf(t, lab.Router, family, rules)
}

// rulesOf adds a table to a machine for the test.
func rulesOf(t testing.TB, n *testnet.Node, family, rules string) {
	t.Helper()
	const table = "users_own"
	cmd := n.Command(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("table %s %s {\n%s\n}\n", family, table, rules))
	if r := runCommand(t, cmd); r.code != 0 {
		t.Fatal(r)
	}
	t.Cleanup(func() {
		if _, err := n.Run(context.Background(), "nft", "delete", "table", family, table); err != nil {
			t.Error(err)
		}
	})
}

// flow is a socket of a node that talks to an echo server.
type flow struct {
	name string
	conn net.Conn
}

// openFlow connects and, unless the server is a resolver, says something.
func openFlow(t testing.TB, n *testnet.Node, proto string, server netip.AddrPort) *flow {
	t.Helper()
	conn, err := n.Dial(t.Context(), proto, server.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &flow{fmt.Sprintf("%s from %s to %v", proto, n.Name, server), conn}
	if server.Port() == testnet.PortDNS {
		if err = f.send(leaktest.Query("before." + testnet.Zone)); err == nil {
			err = f.read(12)
		}
	} else {
		err = f.echo()
	}
	if err != nil {
		t.Fatalf("%s: %v", f.name, err)
	}
	return f
}

// send reports what the kernel has learned of the flow meanwhile.
func (f *flow) send(b []byte) error {
	_, err := f.conn.Write(b)
	return err
}

func (f *flow) read(n int) error {
	if err := f.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := io.ReadAtLeast(f.conn, make([]byte, 2048), n)
	return err
}

func (f *flow) echo() error {
	message := []byte("something to send back")
	if err := f.send(message); err != nil {
		return err
	}
	return f.read(len(message))
}

// ends goes on sending until the kernel says that it is over. Talkers need not
// answer: what comes from them says that it is not.
func (f *flow) ends() error {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		err := f.echo()
		if err == nil {
			return fmt.Errorf("%s is still answered", f.name)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
	}
	return fmt.Errorf("%s: nobody says that it has ended", f.name)
}

// begun is how much of a download startDownload reads.
const begun = 1000

// startDownload begins to read a page and leaves the rest to the caller.
func startDownload(t testing.TB, n *testnet.Node, url string) io.Reader {
	t.Helper()
	body, err := openPage(t.Context(), n, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { body.Close() })
	if _, err := io.ReadFull(body, make([]byte, begun)); err != nil {
		t.Fatalf("begin %s: %v", url, err)
	}
	return body
}

// cutOff reads a download, which must end before its end. Nothing tells a device
// that only waits; it finds out when it asks, as TCP's keepalive does after a while.
func cutOff(r io.Reader) error {
	begin := time.Now()
	if n, err := io.Copy(io.Discard, r); err == nil {
		return fmt.Errorf("a download went on to its end, %d bytes", n)
	}
	if took := time.Since(begin); took > 2*patience {
		return fmt.Errorf("a download ended only after %v", took)
	}
	return nil
}

// talkers are servers that go on sending to whoever has sent to them.
type talkers struct {
	lab  *testnet.Lab
	port uint16
	sent atomic.Int64
}

func newTalkers(t testing.TB, lab *testnet.Lab) *talkers {
	t.Helper()
	s := &talkers{lab: lab, port: 4444}
	for _, addr := range []netip.Addr{testnet.Other4, testnet.Other6} {
		conn, err := lab.Internet.ListenPacket("udp", at(addr, s.port).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go s.talk(t.Context(), conn)
	}
	return s
}

func (s *talkers) talk(ctx context.Context, conn net.PacketConn) {
	known := map[string]net.Addr{}
	buf := make([]byte, 100)
	for ctx.Err() == nil {
		if conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)) != nil {
			return
		}
		if _, peer, err := conn.ReadFrom(buf); err == nil {
			known[peer.String()] = peer
		} else if !errors.Is(err, os.ErrDeadlineExceeded) && strings.Contains(err.Error(), "closed") {
			return
		}
		for _, peer := range known {
			if _, err := conn.WriteTo([]byte("more than an echo would be"), peer); err == nil {
				s.sent.Add(1)
			}
		}
	}
}

// greet makes a talker begin, and waits until it is heard.
func (s *talkers) greet(t testing.TB, n *testnet.Node, addr netip.Addr) *flow {
	t.Helper()
	conn, err := n.Dial(t.Context(), "udp", at(addr, s.port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &flow{fmt.Sprintf("talk of %s with %v", n.Name, addr), conn}
	if err := errors.Join(f.send([]byte("hello")), f.read(4)); err != nil {
		t.Fatalf("%s: %v", f.name, err)
	}
	return f
}

// awaitMore waits until the talkers have been seen to go on after attach.
func (s *talkers) awaitMore(t testing.TB, capture *testnet.Capture) {
	t.Helper()
	eventually(t, patience, "peers that go on sending", func() error {
		heard := map[netip.Addr]int{}
		for _, p := range capture.Packets() {
			if !p.Inbound && p.Src.Port() == s.port {
				heard[p.Src.Addr()]++
			}
		}
		if heard[testnet.Other4] < 20 || heard[testnet.Other6] < 20 {
			return fmt.Errorf("heard %v", heard)
		}
		return nil
	})
}

// pinger sends echo requests of one id.
type pinger struct {
	node *testnet.Node
	id   uint16
}

func (p pinger) send(t testing.TB) {
	t.Helper()
	for seq := range uint16(3) {
		for _, ping := range [][]byte{
			testnet.ICMPEcho(p.node.IPv4, testnet.Web4, p.id, seq), testnet.ICMPEcho(p.node.IPv6, testnet.Web6, p.id, seq),
		} {
			if err := testnet.SendRaw(p.node, ping); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// seen wants both families' requests and their answers in a capture.
func (p pinger) seen(capture *testnet.Capture) error {
	kinds := map[string]bool{}
	for _, packet := range capture.Packets() {
		kinds[fmt.Sprintf("%s %d", packet.Proto, packet.ICMPType)] = true
	}
	for _, kind := range []string{"icmp 8", "icmp 0", "icmpv6 128", "icmpv6 129"} {
		if !kinds[kind] {
			return fmt.Errorf("%s is missing of %v", kind, kinds)
		}
	}
	return nil
}

// stopped ends a capture and returns what is neither Tor's nor the link's.
func stopped(t testing.TB, capture *testnet.Capture) []testnet.Packet {
	t.Helper()
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
	return capture.NonTor()
}

// ofRouter tells whether a packet belongs to a flow that the router itself has.
func ofRouter(p testnet.Packet, f *flow) bool {
	return p.Src.String() == f.conn.LocalAddr().String() && p.Dst.String() == f.conn.RemoteAddr().String()
}

// checkServersSawExitsOnlyIfAny is checkServersSawExitsOnly where nobody need come.
func checkServersSawExitsOnlyIfAny(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	if len(lab.Web.Visits()) > 0 {
		checkServersSawExitsOnly(t, lab)
		return
	}
	for _, q := range append(lab.DNS.Queries(), lab.RouterDNS.Queries()...) {
		if !lab.Tor.IsExit(q.Source.Addr()) {
			t.Errorf("a resolver was asked for %s by %v", q.Name, q.Source)
		}
	}
}
