package e2e

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// ownLeaks lets the router itself try everything, as root and as a user, and returns what
// got out, sorted, each kind once.
func (w leakWatch) ownLeaks(t testing.TB) []string {
	t.Helper()
	w.Reset()
	if err := w.OwnBattery(t.Context(), new(leaktest.Tally)); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range w.Leaks(nil) {
		out = append(out, l.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// allowPings lets users have ping sockets for the test.
func allowPings(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	const setting = "net.ipv4.ping_group_range="
	if err := lab.Router.Sysctl(setting + "0 2147483647"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Router.Sysctl(setting + "1 0"); err != nil { // as in every new namespace
			t.Error(err)
		}
	})
}

// TestNothingOfTheMachineItselfLeaks: whatever root or a user of it sends, and by whichever
// kind of socket.
func TestNothingOfTheMachineItselfLeaks(t *testing.T) {
	lab := plainLab(t, testnet.Options{SecondLAN: true})
	allowPings(t, lab)
	w := watchLeaks(t, lab)
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, l := range w.ownLeaks(t) {
		t.Error(l)
	}
}

// TestTheOwnBatterySeesLeaks: with all guards gone, each kind of leak of the machine itself
// that is looked for is seen.
func TestTheOwnBatterySeesLeaks(t *testing.T) {
	lab := plainLab(t, testnet.Options{SecondLAN: true})
	allowPings(t, lab)
	w := watchLeaks(t, lab)
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	removeAll(t, filepath.Join(pinDir(t, lab), "links", "*"))
	run(t, lab.Router, "nft", "delete", "table", "inet", "torbpf")
	found := strings.Join(w.ownLeaks(t), "\n")
	for _, want := range []string{
		"wan: tcp 62.10.0.2:[0-9]+ > 51.20.0.80:80 flags 0x2", `wan: tcp \[2a0c:10::2\]:[0-9]+ > \[2a0e:20::80\]:80`,
		"wan: tcp .* > 51.20.0.80:7 flags 0x4", "wan: tcp .* > 51.20.0.80:7 flags 0x12",
		"wan: udp 62.10.0.2:[0-9]+ > 51.20.0.80:443", `wan: udp \[2a0c:10::2\]:[0-9]+ > \[2a0e:20::80\]:443`,
		"wan: udp 62.10.0.2:[0-9]+ > 10.1.2.3:123", "wan: udp 192.168.60.77:", "wan: udp 8.8.4.4:", `wan: udp \[fd50::1\]:`,
		"wan: icmp 62.10.0.2:0 > 51.20.0.80:0 type 8", `wan: icmpv6 \[2a0c:10::2\]:0 > \[2a0e:20::80\]:0 type 128`,
		"wan: udp .* > 9.9.9.9:53", `wan: udp .* > \[2620:fe::fe\]:53`, "wan: tcp .* > 9.9.9.9:53",
		"wan: ip-47 ", "wan: ip-132 ", "wan: udp .* fragment", "wan: ether-8100 ", "wan: icmp .* type 3 code 3 about udp",
		"ISP's resolver: udp router-to-9-9-9-9.", "ISP's resolver: udp user-to-62-53-0-53.", "ISP's resolver: tcp dial-router-r1-62-53-0-53.",
		"ISP's resolver: udp dial-router-r1-192-168-50-1.",
		"web: .* 62.10.0.2", "web: .* 2a0c:10::2",
	} {
		if !regexp.MustCompile(want).MatchString(found) {
			t.Errorf("no leak like %q was seen", want)
		}
	}
	if t.Failed() {
		t.Log(found)
	}
}
