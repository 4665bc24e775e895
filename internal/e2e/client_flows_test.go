package e2e

import (
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// ownPorts are of an echo server of root's on the router itself, at its WAN addresses: one that
// only root may listen on, and one that anybody might, as of an ssh that was moved.
var ownPorts = []uint16{222, 2222}

var ownAddrs = []netip.Addr{testnet.WANRouter4, testnet.WANRouter6}

// serveOwn has the router echo, as an ssh server of it would answer.
func serveOwn(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	server := startSpeaker(t, lab, 0, "")
	for _, addr := range ownAddrs {
		for _, port := range ownPorts {
			server.must(t, "serve tcp %v", at(addr, port))
			server.must(t, "serve udp %v", at(addr, port))
		}
	}
}

// comeIn opens connections from outside to the router itself.
func comeIn(t testing.TB, lab *testnet.Lab, networks ...string) []*flow {
	t.Helper()
	var flows []*flow
	for _, addr := range ownAddrs {
		for _, network := range networks {
			for _, port := range ownPorts {
				flows = append(flows, openFlow(t, lab.Internet, network, at(addr, port)))
			}
		}
	}
	return flows
}

// checkGoOn wants connections answered.
func checkGoOn(t testing.TB, when string, flows []*flow) {
	t.Helper()
	for _, f := range flows {
		if err := f.echoSoon(); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// ofOwnServer tells whether a packet is an answer of serveOwn's.
func ofOwnServer(p testnet.Packet) bool {
	return slices.Contains(ownPorts, p.Src.Port()) && (p.Proto == "tcp" || p.Proto == "udp")
}

// TestOldFlowsOfTheMachineEnd: what it has open in clear when client mode comes ends there
// and then, without a packet more; what has come in goes on, and new ones come in.
func TestOldFlowsOfTheMachineEnd(t *testing.T) {
	t.Run("tracked", func(t *testing.T) {
		lab := plainLab(t, testnet.Options{})
		userRules(t, lab, "ip6", `chain postrouting { type nat hook postrouting priority srcnat; policy accept; oifname "eth0" masquerade; }`)
		checkOwnFlowsEnd(t, lab)
	})
	t.Run("IPv6 that nobody tracked", func(t *testing.T) {
		checkOwnFlowsEnd(t, plainLab(t, testnet.Options{}))
	})
}

func checkOwnFlowsEnd(t *testing.T, lab *testnet.Lab) {
	peers := newTalkers(t, lab)
	serveFlows(t, lab, testnet.Web4, testnet.Web6)
	serveOwn(t, lab)
	user := lab.Router.As(someone)
	var flows []*flow
	for _, n := range []*testnet.Node{lab.Router, user} {
		for _, server := range []netip.Addr{testnet.Web4, testnet.Web6} {
			flows = append(flows,
				openFlow(t, n, "tcp", at(server, portFlows)),
				openFlow(t, n, "udp", at(server, testnet.PortEcho)))
		}
	}
	heard := []*flow{peers.greet(t, lab.Router, testnet.Other4), peers.greet(t, user, testnet.Other6)}
	downloads := []io.Reader{startDownload(t, lab.Router, largePage(testnet.Web4)), startDownload(t, user, largePage(testnet.Web6))}
	inbound := comeIn(t, lab, "tcp")

	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	forget(lab)
	capture := captureWAN(t, lab)
	checkGoOn(t, "open before attach", inbound)
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
		f.conn.Close() // what comes from then on meets a closed port
	}
	for _, f := range flows {
		f.conn.Close()
	}
	peers.awaitMore(t, capture)
	checkGoOn(t, "new", comeIn(t, lab, "tcp", "udp"))
	checkGoOn(t, "open before attach", inbound)
	for _, p := range stopped(t, capture) {
		if !ofOwnServer(p) {
			t.Errorf("on the WAN: %v", p)
		}
	}
}

// TestInboundGoesOnWithoutNftables: who has come in keeps his connection, and may begin
// another, when nftables is flushed and nothing of torbpf's is alive; an excluded user goes
// on, too, and nothing else leaves. Behind the guard at the uplink there is another.
func TestInboundGoesOnWithoutNftables(t *testing.T) {
	t.Run("flushed", func(t *testing.T) {
		checkWithoutNftables(t, func(*testnet.Lab) {})
	})
	t.Run("flushed, and no guard at the uplink", func(t *testing.T) {
		checkWithoutNftables(t, func(lab *testnet.Lab) {
			removeAll(t, filepath.Join(pinDir(t, lab), "links", "uplink-*"))
		})
	})
}

func checkWithoutNftables(t *testing.T, takeAway func(*testnet.Lab)) {
	lab := plainLab(t, testnet.Options{SecondLAN: true})
	serveOwn(t, lab)
	old := comeIn(t, lab, "tcp")
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	mustTorbpf(t, lab, "exclude", "add", "--user", fmt.Sprint(excludedUser))
	mustTorbpf(t, lab, "exclude", "add", "--client", "--mark", "0x200/0xff00")
	inbound := append(old, comeIn(t, lab, "tcp")...)
	run(t, lab.Router, "nft", "flush", "ruleset")
	takeAway(lab)
	kill(t, unix.SIGKILL, ourProcesses(t, lab)...)
	capture := captureWAN(t, lab)
	s := startSpeaker(t, lab, someone, "")
	if err := both(s.refused); err != nil {
		t.Errorf("a user: %v", err)
	}
	for _, p := range stopped(t, capture) {
		if !ofOwnServer(p) { // which may have to say once more what it has received
			t.Errorf("on the WAN: %v", p)
		}
	}
	checkGoOn(t, "without nftables", inbound)
	checkGoOn(t, "new without nftables", comeIn(t, lab, "tcp"))
	if err := both(startSpeaker(t, lab, excludedUser, "").direct); err != nil {
		t.Errorf("an excluded user: %v", err)
	}
	userRules(t, lab, "inet", `chain marks { type route hook output priority -150; ip daddr 51.20.0.80 meta mark set 0x200; ip6 daddr 2a0e:20::80 meta mark set 0x200; }`)
	if err := both(s.direct); err != nil {
		t.Errorf("by an excluded mark: %v", err)
	}
	checkGoOn(t, "without nftables", inbound)
}
