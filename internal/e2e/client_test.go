package e2e

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// someone is a user of the router without privilege whom no rule names.
const someone = 4711

// TestClientModeMainJob is what client mode is for: whatever root or a user of the machine
// itself asks for is on Tor, nothing else of it is seen outside, and detach leaves it as it
// was.
func TestClientModeMainJob(t *testing.T) {
	lab := torLab(t)
	allowPings(t, lab)
	before := takeSnapshot(t, lab)
	begin := time.Now()
	r := attach(t, lab, "--client")
	t.Logf("attach took %v\n%v", time.Since(begin).Round(time.Millisecond), r)
	for _, to := range []netip.Addr{testnet.Web4, testnet.Web6} {
		checkShortWay(t, lab, to)
	}
	checkMachineByTor(t, lab, testnet.LANRouter4, testnet.LANRouter6)
	compare(t, "resolver", before["resolver"], resolverFile(t))
	t.Logf("status: %v", runTorbpf(t, lab, "status"))

	mustTorbpf(t, lab, "detach", "--client")
	before.checkSame(t, takeSnapshot(t, lab))
	for _, n := range []*testnet.Node{lab.Router, lab.Router.As(someone)} {
		for _, addr := range []netip.Addr{testnet.Web4, testnet.Web6} {
			checkDirect(t, n, addr)
			checkEcho(t, n, addr)
		}
	}
	forget(lab)
	if err := lookup(lab.Router, lab.Router.Resolver, "after."+testnet.Zone, "A", "udp", testnet.Web4.String()); err != nil {
		t.Error(err)
	}
	if asked := lab.DNS.QueriesFor("after." + testnet.Zone); len(asked) != 1 || asked[0].Source.Addr() != testnet.WANRouter4 {
		t.Errorf("after detach the ISP's resolver was asked %v", asked)
	}
}

// checkShortWay has the machine connect, which is to be led to Tor without any NAT, and not
// to see that.
func checkShortWay(t *testing.T, lab *testnet.Lab, to netip.Addr) {
	t.Helper()
	site := netip.AddrPortFrom(to, 80)
	err := lab.Router.Do(func() error {
		conn, err := net.DialTimeout("tcp", site.String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if from := conn.LocalAddr().(*net.TCPAddr); !from.IP.IsLoopback() {
			t.Errorf("to %v it comes from %v, so it did not take the short way", site, from)
		}
		if peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort(); peer != site {
			t.Errorf("connected to %v, it is told %v", site, peer)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// checkMachineByTor has the machine itself do everything, as root and as a user, and wants
// nothing but Tor's on the WAN. It asks for names at its own addresses towards LANs as well,
// where those are given: of an attached LAN's it would not be answered.
func checkMachineByTor(t *testing.T, lab *testnet.Lab, ownAddrs ...netip.Addr) {
	t.Helper()
	forget(lab)
	w := watchLeaks(t, lab)
	var checks []func() error
	users := map[string]*testnet.Node{"root": lab.Router, "user": lab.Router.As(someone)}
	for who, n := range users {
		checks = append(checks, fetches(lab, n)...)
		checks = append(checks, lookupsAt(n, who, append(ownAddrs,
			// A resolver of its own, as systemd-resolved is one, which asks the ISP's.
			n.Resolver.Addr(), netip.MustParseAddr("127.0.0.53"), netip.IPv6Loopback(),
			testnet.WANRouter4, testnet.Resolver4, testnet.PublicResolver4, testnet.PublicResolver6,
			netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd99::53"),
		))...)
	}
	inParallel(t, checks)
	checkOnlyExitsSaw(t, lab)
	for _, n := range users {
		checkOnionV6(t, lab, n)
		checkNoEcho(t, n, testnet.Web4, testnet.Web6)
	}
	if err := w.OwnBattery(t.Context(), new(leaktest.Tally)); err != nil {
		t.Error(err)
	}
	checkOnlyExitsSaw(t, lab)
	for _, l := range w.Leaks(nil) {
		if l.Where == "wan" {
			t.Error(l)
		}
	}
	t.Logf("%d packets on the WAN", w.Seen())
}

// checkOnlyExitsSaw is checkServersSawExitsOnly where the machine's own resolver may be
// asked, by the machine itself: what it asks in turn is what counts.
func checkOnlyExitsSaw(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	visits := lab.Web.Visits()
	if len(visits) == 0 {
		t.Error("nobody came to the web server")
	}
	for _, v := range visits {
		if source := v.Source.Addr(); !lab.Tor.IsExit(source) && source != lab.Tor.OnionSource {
			t.Errorf("%s at %v saw %v", v.Service, v.Local, v.Source)
		}
	}
	for _, q := range lab.DNS.Queries() {
		if !lab.Tor.IsExit(q.Source.Addr()) {
			t.Errorf("the ISP's resolver was asked for %s %s by %v", q.Name, q.Type, q.Source)
		}
	}
}

// TestClientModeBesideRouterMode: the machine and the devices behind it at once, and each
// alone again.
func TestClientModeBesideRouterMode(t *testing.T) {
	lab := torLab(t)
	allowPings(t, lab)
	before := takeSnapshot(t, lab)
	attach(t, lab, lan, "--client")
	checkMachineByTor(t, lab)
	forget(lab)
	capture := captureWAN(t, lab)
	inParallel(t, append(fetches(lab, lab.Client1), lookups(lab.Client1)...))
	sendStrays(t, lab.Client1)
	checkServersSawExitsOnly(t, lab)
	checkNoLeaks(t, capture)

	mustTorbpf(t, lab, "detach", "--client")
	checkDirect(t, lab.Router, testnet.Web4)
	checkDirect(t, lab.Router, testnet.Web6)
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	checkNoEcho(t, lab.Client1, testnet.Web6)
	mustTorbpf(t, lab, attachArgs(lab, "--client")...)
	mustTorbpf(t, lab, "detach", lan)
	checkByTor(t, lab, lab.Router, testnet.Web4)
	checkNoEcho(t, lab.Router, testnet.Web6)
	checkDirect(t, lab.Client1, testnet.Web4)
	mustTorbpf(t, lab, "detach", "--client")
	before.checkSame(t, takeSnapshot(t, lab))
}
