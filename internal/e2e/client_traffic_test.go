package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/testnet"
)

// ownTraffic is what status says.
func ownTraffic(t *testing.T, lab *testnet.Lab) router.Status {
	t.Helper()
	var s router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// moved is by how much what this machine has sent has grown.
func moved(before, after router.Status, fate string) loader.Traffic {
	a, b := before.OwnTraffic[fate], after.OwnTraffic[fate]
	return loader.Traffic{Packets: b.Packets - a.Packets, Bytes: b.Bytes - a.Bytes}
}

// TestStatusCountsWhatThisMachineSends to the packet, by what becomes of it, and goes on
// counting when rules come and all is attached anew. While Tor is not ready what would be its is
// refused.
func TestStatusCountsWhatThisMachineSends(t *testing.T) {
	const words, tcp, udp4, udp6 = 9, 60, 28, 48 // what a speaker says, and headers before it
	lab := clientLab(t)
	s, direct := startSpeaker(t, lab, someone, ""), startSpeaker(t, lab, excludedUser, "")
	mustTorbpf(t, lab, "exclude", "add", "--user", fmt.Sprint(excludedUser))
	before := ownTraffic(t, lab)
	try := func(s *speaker, network string, to netip.AddrPort, times int) {
		for range times {
			_, _ = s.say("try %s %v", network, to) // told of or not, it was sent
		}
	}
	try(s, "tcp", at(testnet.Web4, 80), 3)                              // the short way
	try(s, "tcp", netip.MustParseAddrPort("10.193.1.1:80"), 2)          // redirected
	try(s, "udp", at(testnet.Web4, testnet.PortHTTPS), 4)               // refused
	try(direct, "udp", at(testnet.Web4, testnet.PortEcho), 5)           // direct
	try(direct, "udp", at(testnet.Web6, testnet.PortEcho), 6)           // direct
	try(s, "udp", at(lab.Client1.IPv4, 9), 1)                           // local
	try(s, "tcp", at(netip.MustParseAddr("127.0.0.1"), 9), 1)           // nowhere
	try(s, "udp", at(testnet.PublicResolver4, testnet.PortDNS), 2)      // no query, but the sentry gets it
	mustTorbpf(t, lab, "exclude", "add", "--client", "--port", "9/tcp") // the table is replaced
	mustTorbpf(t, lab, "attach", "--client", "--no-wait")
	after := ownTraffic(t, lab)
	for fate, want := range map[string]loader.Traffic{
		"direct":  {Packets: 11, Bytes: 5*(udp4+words) + 6*(udp6+words)},
		"tor":     {Packets: 2, Bytes: 5*tcp + 2*(udp4+words)}, // see router.behind
		"refused": {Packets: 5 + 4, Bytes: 4 * (udp4 + words)},
	} {
		if got := moved(before, after, fate); got != want {
			t.Errorf("%s: counted %v, sent were %v", fate, got, want)
		}
	}
	if local := moved(before, after, "local"); local.Packets < 1 || local.Bytes < udp4+words {
		t.Errorf("local: counted %v", local) // with what the kernel says to its neighbours
	}
	line := fmt.Sprintf("%d packets (%d B) direct", after.OwnTraffic["direct"].Packets, after.OwnTraffic["direct"].Bytes)
	if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, line) {
		t.Errorf("status does not say %q: %v", line, r)
	}
	mustTorbpf(t, lab, "detach", "--client")
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	for fate, c := range ownTraffic(t, lab).OwnTraffic {
		if fate != "local" && fate != "tor_itself" && c.Packets != 0 {
			t.Errorf("%s: attached anew, %v were sent already", fate, c)
		}
	}
}

// TestWhatTorCarriesIsNotTakenForDirect: what a program sends is Tor's, and what tor sends for
// it, in clear as anybody may see, is told apart.
func TestWhatTorCarriesIsNotTakenForDirect(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, "--client")
	s := startSpeaker(t, lab, someone, "")
	before := ownTraffic(t, lab)
	for _, addr := range []netip.Addr{testnet.Web4, testnet.Web6} {
		s.must(t, "get %v", addr)
	}
	s.must(t, "ask %v counted.%s", at(testnet.PublicResolver4, testnet.PortDNS), testnet.Zone)
	after := ownTraffic(t, lab)
	for _, fate := range []string{"tor", "tor_itself"} {
		if got := moved(before, after, fate); got.Packets < 3 || got.Bytes < 3*40 {
			t.Errorf("%s: counted %v", fate, got)
		}
	}
	if got := after.OwnTraffic["direct"]; got.Packets != 0 {
		t.Errorf("%v were direct since attach: %v", got, after.OwnTraffic)
	}
}
