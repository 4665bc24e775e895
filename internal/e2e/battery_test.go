package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// hush is how long a device waits for an answer that it should not get.
const hush = 250 * time.Millisecond

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

// leakWatch looks for leaks on the WAN and at the resolvers.
type leakWatch struct{ *leaktest.Watch }

func watchLeaks(t testing.TB, lab *testnet.Lab) leakWatch {
	t.Helper()
	w, err := leaktest.NewWatch(t.Context(), lab)
	if err != nil {
		t.Fatal(err)
	}
	return leakWatch{w}
}

// leaks lets both clients try everything and returns what got out, sorted, each
// kind once.
func (w leakWatch) leaks(t testing.TB) []string {
	t.Helper()
	w.Reset()
	if err := w.Battery(t.Context(), new(leaktest.Tally)); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range w.Leaks(nil) {
		out = append(out, l.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// sendStrays sends one packet of every kind that must not reach the WAN.
func sendStrays(t testing.TB, n *testnet.Node) {
	t.Helper()
	if err := leaktest.Send(n, leaktest.Probes(n, 0), new(leaktest.Tally), func() {}); err != nil {
		t.Fatal(err)
	}
}

// checkNoLeaks ends a capture and reports all on it that is not Tor's.
func checkNoLeaks(t testing.TB, capture *testnet.Capture) {
	t.Helper()
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
	leaks := capture.NonTor()
	for i, p := range leaks {
		if i == 20 {
			t.Errorf("and %d more", len(leaks)-i)
			break
		}
		t.Errorf("on the WAN: %v", p)
	}
}

func loneTorrc(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	file, err := leaktest.LoneTorrc(lab)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// ourProcesses are tor and the sentry of a router.
func ourProcesses(t testing.TB, lab *testnet.Lab) []int {
	t.Helper()
	return append(pidsNamed(t, lab, "tor"), pidsNamed(t, lab, "torbpf-sentry")...)
}
