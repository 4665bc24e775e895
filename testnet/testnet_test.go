package testnet

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const probeTimeout = 5 * time.Second

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "testnet: these tests make network namespaces and need root")
		os.Exit(1)
	}
	if os.Getenv(envAbandon) != "" {
		abandonLab()
	}
	os.Exit(m.Run())
}

// newPlainLab is a lab without Tor and a capture of its WAN.
func newPlainLab(t *testing.T, opts Options) (*Lab, *Capture) {
	t.Helper()
	opts.NoTor = true
	lab := New(t, opts)
	capture, err := lab.CaptureWAN(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return lab, capture
}

func TestPlainLabIsUpQuickly(t *testing.T) {
	begin := time.Now()
	New(t, Options{NoTor: true, SecondLAN: true})
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("lab took %s, want less than 2s", took)
	}
}

func TestClientsReachTheWebInClear(t *testing.T) {
	lab, capture := newPlainLab(t, Options{SecondLAN: true})
	for _, test := range []struct {
		node *Node
		url  string
		want netip.Addr // the source that the web server saw
	}{
		{lab.Client1, "http://51.20.0.80/", WANRouter4},
		{lab.Client2, "http://51.21.0.80/", WANRouter4},
		{lab.Client3, "http://51.20.0.80/", WANRouter4},
		{lab.Client1, "http://[2a0e:20::80]/", lab.Client1.IPv6},
		{lab.Client3, "http://[2a0e:20::80]/", lab.Client3.IPv6},
		{lab.Client1, "http://web.example.test/", WANRouter4},
		{lab.Client1, "http://v6only.example.test/", lab.Client1.IPv6},
		{lab.Client1, "https://other.example.test/", WANRouter4},
		{lab.Client1, "https://[2a0e:20::80]/", lab.Client1.IPv6},
		{lab.Router, "http://51.20.0.80/", WANRouter4},
	} {
		body, err := HTTPGet(test.node, test.url, probeTimeout)
		if err != nil {
			t.Errorf("%v", err)
		} else if body != test.want.String() {
			t.Errorf("%s from %s: source %s, want %s", test.url, test.node.Name, body, test.want)
		}
	}
	requireLeak(t, capture, "tcp", netip.AddrPortFrom(Web4, PortHTTP))
	requireLeak(t, capture, "tcp", netip.AddrPortFrom(Web6, PortHTTPS))
	requireVisit(t, lab.Web, "https", lab.Client1.IPv6)
}

func TestMasqueradeV6HidesClients(t *testing.T) {
	lab, _ := newPlainLab(t, Options{MasqueradeV6: true})
	body, err := HTTPGet(lab.Client1, "http://[2a0e:20::80]/", probeTimeout)
	if err != nil || body != WANRouter6.String() {
		t.Errorf("source %q, %v; want %s", body, err, WANRouter6)
	}
}

// The router's resolver is the leak that tests must be able to see.
func TestRouterResolverAsksTheISP(t *testing.T) {
	lab, capture := newPlainLab(t, Options{})
	for _, test := range []struct {
		name, qtype, proto string
		server             netip.AddrPort
		source             netip.Addr // as the ISP's resolver sees it
	}{
		{"one.example.test", "A", "udp", lab.Client1.Resolver, WANRouter4},
		{"two.example.test", "AAAA", "tcp", lab.Client1.Resolver, WANRouter4},
		{"three.example.test", "A", "udp", netip.AddrPortFrom(LANRouterULA, PortDNS), WANRouter4},
		{"four.example.test", "TXT", "tcp", netip.AddrPortFrom(LANRouter6, PortDNS), WANRouter4},
		{"five.example.test", "MX", "udp", netip.AddrPortFrom(WANRouter4, PortDNS), WANRouter4},
		{"six.example.test", "A", "udp", netip.AddrPortFrom(PublicResolver4, PortDNS), WANRouter4},
		{"seven.example.test", "A", "tcp", netip.AddrPortFrom(PublicResolver6, PortDNS), lab.Client1.IPv6},
		{"80.0.20.51.in-addr.arpa", "PTR", "udp", lab.Client1.Resolver, WANRouter4},
	} {
		reply, err := DNSQuery(lab.Client1, test.server, test.name, test.qtype, test.proto, probeTimeout)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 {
			t.Errorf("%s: got %v, want one answer", test.name, reply)
		}
		queries := lab.DNS.QueriesFor(test.name)
		if len(queries) != 1 || queries[0].Source.Addr() != test.source || queries[0].Proto != test.proto {
			t.Errorf("%s: isp saw %v, want one query by %s from %s", test.name, queries, test.proto, test.source)
		}
	}
	requireLeak(t, capture, "udp", netip.AddrPortFrom(Resolver4, PortDNS))
	requireLeak(t, capture, "tcp", netip.AddrPortFrom(PublicResolver6, PortDNS))
}

func TestRouterResolverKeepsLocalNames(t *testing.T) {
	lab, _ := newPlainLab(t, Options{})
	for name, want := range map[string]int{
		"client2.lan": dns.RcodeSuccess,
		"nobody.lan":  dns.RcodeNameError,
	} {
		reply, err := DNSQuery(lab.Client1, lab.Client1.Resolver, name, "A", "udp", probeTimeout)
		if err != nil || reply.Rcode != want {
			t.Errorf("%s: got %v, %v; want code %d", name, reply, err, want)
		}
	}
	if queries := lab.DNS.Queries(); len(queries) != 0 {
		t.Errorf("isp was asked for local names: %v", queries)
	}
}

func TestLargeAnswerNeedsTCP(t *testing.T) {
	lab, _ := newPlainLab(t, Options{})
	reply, err := DNSQuery(lab.Client1, lab.Client1.Resolver, BigName, "TXT", "udp", probeTimeout)
	if err != nil || !reply.Truncated {
		t.Errorf("by udp: got %v, %v; want a truncated answer", reply, err)
	}
	reply, err = DNSQuery(lab.Client1, lab.Client1.Resolver, BigName, "TXT", "tcp", probeTimeout)
	if err != nil || reply.Truncated || len(reply.Answer) != 1 {
		t.Errorf("by tcp: got %v, %v; want the whole answer", reply, err)
	}
}

func TestPortForwardLeadsToClient1(t *testing.T) {
	lab, _ := newPlainLab(t, Options{})
	for _, from := range []*Node{lab.Internet, lab.Client2} { // outside, and hairpin
		body, err := HTTPGet(from, "http://62.10.0.2:8080/", probeTimeout)
		if err != nil {
			t.Error(err)
		} else if from == lab.Internet && body != Core4.String() {
			t.Errorf("source %s, want %s", body, Core4)
		}
		if err := Echo(from, "udp", netip.AddrPortFrom(WANRouter4, PortForwardUDP), probeTimeout); err != nil {
			t.Error(err)
		}
	}
	requireVisit(t, lab.Forwarded, "udp-echo", Core4)
}

func TestEchoServers(t *testing.T) {
	lab, capture := newPlainLab(t, Options{})
	for _, addr := range []netip.Addr{Web4, Web6, Other4, Other6} {
		for _, proto := range []string{"tcp", "udp"} {
			if err := Echo(lab.Client2, proto, netip.AddrPortFrom(addr, PortEcho), probeTimeout); err != nil {
				t.Error(err)
			}
		}
	}
	if err := Echo(lab.Client2, "udp", netip.AddrPortFrom(Web4, PortHTTPS), probeTimeout); err != nil {
		t.Error(err)
	}
	requireLeak(t, capture, "udp", netip.AddrPortFrom(Web6, PortEcho))
}

func TestCaptureSeesCraftedPackets(t *testing.T) {
	lab, capture := newPlainLab(t, Options{})
	src4 := netip.AddrPortFrom(lab.Client1.IPv4, 4000)
	src6 := netip.AddrPortFrom(lab.Client1.IPv6, 4000)
	dst4, dst6 := netip.AddrPortFrom(Other4, 5000), netip.AddrPortFrom(Other6, 5000)
	spoofed := netip.MustParseAddrPort("[2a0e:66::66]:4000")
	packets := [][]byte{
		ICMPEcho(src4.Addr(), Other4, 1, 1),
		ICMPEcho(src6.Addr(), Other6, 1, 1),
		TCPSegment(src6, dst6, FlagSYN, 1, 0, nil),
		UDPDatagram(spoofed, dst6, []byte("spoofed")),
		IPPacket(src4.Addr(), Other4, 132, []byte("not really sctp")),
	}
	packets = append(packets, Fragments(UDPDatagram(src6, dst6, make([]byte, 2000)), 1208, 7)...)
	packets = append(packets, Fragments(UDPDatagram(src4, dst4, make([]byte, 2000)), 1208, 7)...)
	for _, packet := range packets {
		if err := SendRaw(lab.Client1, packet); err != nil {
			t.Fatal(err)
		}
	}
	// The first packet to a neighbour waits for its address to be resolved.
	awaitPackets(t, capture, func(p Packet) bool { return p.Proto == "ip-132" })
	awaitPackets(t, capture, func(p Packet) bool { return p.Proto == "icmp" && p.ICMPType == 8 && p.Src.Addr() == WANRouter4 })
	awaitPackets(t, capture, func(p Packet) bool { return p.Proto == "icmpv6" && p.ICMPType == 128 && p.Src.Addr() == src6.Addr() })
	awaitPackets(t, capture, func(p Packet) bool { return p.Proto == "tcp" && p.TCPFlags == FlagSYN && p.Dst == dst6 })
	awaitPackets(t, capture, func(p Packet) bool { return p.Src == spoofed && string(p.Payload) == "spoofed" })
	awaitPackets(t, capture, func(p Packet) bool { return p.Fragment && p.Proto == "udp" && p.Dst == dst6 })
	awaitPackets(t, capture, func(p Packet) bool {
		return p.Fragment && p.Proto == "udp" && p.Dst.Addr() == Other4 && p.Dst.Port() == 0
	})
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
}

func TestIdleRouterIsSilent(t *testing.T) {
	_, capture := newPlainLab(t, Options{})
	if leaks := capture.NonTor(); len(leaks) != 0 {
		t.Errorf("idle router sent %v", leaks)
	}
}

func TestNamespacesServeBothTools(t *testing.T) {
	lab, _ := newPlainLab(t, Options{})
	byIP, err := exec.Command("ip", "netns", "exec", lab.Router.NetNS, "ip", "-br", "address", "show", "eth1").CombinedOutput()
	if err != nil {
		t.Fatalf("ip netns exec: %v: %s", err, byIP)
	}
	byNsenter, err := lab.Router.Run(t.Context(), "ip", "-br", "address", "show", "eth1")
	if err != nil {
		t.Fatal(err)
	}
	if string(byIP) != byNsenter || !strings.Contains(byNsenter, LANRouter4.String()) {
		t.Errorf("ip netns exec shows %q, nsenter %q", byIP, byNsenter)
	}
}

// envAbandon makes the test binary start a lab and die without closing it.
const envAbandon = "TESTNET_ABANDON"

func abandonLab() {
	lab, err := Start(context.Background(), Options{NoTor: true})
	if err == nil {
		err = startDaemon(lab.Router)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(lab.Router.Path, " ", lab.Dir())
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// startDaemon starts a program that leaves its parent.
func startDaemon(n *Node) error {
	_, err := n.Run(context.Background(), "setsid", "--fork", "sh", "-c", "exec tail -f /dev/null >/dev/null 2>&1")
	return err
}

func TestSweepRemovesKilledLabsOnly(t *testing.T) {
	alive, _ := newPlainLab(t, Options{})
	helper := exec.Command(os.Args[0])
	helper.Env = append(os.Environ(), envAbandon+"=1")
	out, err := helper.Output()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("helper ended with %v: %s", err, out)
	}
	if err := SweepStale(); err != nil {
		t.Error(err)
	}
	for _, path := range strings.Fields(string(out)) {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if _, err := HTTPGet(alive.Client1, "http://51.20.0.80/", probeTimeout); err != nil {
		t.Errorf("sweep broke a running lab: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	first, err := Start(t.Context(), Options{NoTor: true})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Start(t.Context(), Options{NoTor: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := startDaemon(first.Router); err != nil {
		t.Fatal(err)
	}
	var ns unix.Stat_t
	if err := unix.Stat(first.Router.Path, &ns); err != nil {
		t.Fatal(err)
	}
	if pids, err := processesIn(&ns); len(pids) != 1 {
		t.Errorf("processes in router: %v, %v; want the daemon", pids, err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if pids, err := processesIn(&ns); len(pids) != 0 {
		t.Errorf("processes in closed router: %v, %v", pids, err)
	}
	if _, err := HTTPGet(second.Client1, "http://51.20.0.80/", probeTimeout); err != nil {
		t.Errorf("closing one lab broke another: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	for _, lab := range []*Lab{first, second} {
		for _, path := range []string{lab.Router.Path, lab.ISP.Path, lab.Dir()} {
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("%s is still there (%v)", path, err)
			}
		}
	}
}

func requireVisit(t *testing.T, services *Services, service string, source netip.Addr) {
	t.Helper()
	for _, visit := range services.Visits() {
		if visit.Service == service && visit.Source.Addr() == source {
			return
		}
	}
	t.Errorf("no visit to %s from %s in %v", service, source, services.Visits())
}

// requireLeak proves that the capture would have shown such a leak.
func requireLeak(t *testing.T, capture *Capture, proto string, dst netip.AddrPort) {
	t.Helper()
	for _, packet := range capture.NonTor() {
		if packet.Proto == proto && packet.Dst == dst {
			return
		}
	}
	t.Errorf("capture shows no %s to %s", proto, dst)
}

func awaitPackets(t *testing.T, capture *Capture, match func(Packet) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), probeTimeout)
	defer cancel()
	err := waitFor(ctx, "packet", func() (bool, error) {
		for _, packet := range capture.NonTor() {
			if match(packet) {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Errorf("%v in %v", err, capture.NonTor())
	}
}
