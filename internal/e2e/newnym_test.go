package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// circuitsNow are those that `torbpf tor circuits` lists.
func circuitsNow(t testing.TB, lab *testnet.Lab, args ...string) []router.CircuitStatus {
	t.Helper()
	var list struct{ Circuits []router.CircuitStatus }
	out := mustTorbpf(t, lab, append([]string{"tor", "circuits", "--json"}, args...)...).stdout
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return list.Circuits
}

// circuitsOf are the numbers of those that a device has used, by its hardware address.
func circuitsOf(list []router.CircuitStatus, n *testnet.Node) []uint64 {
	var out []uint64
	for _, c := range list {
		if slices.Contains(c.Devices, n.MAC.String()) {
			out = append(out, c.ID)
		}
	}
	return out
}

// shared returns what is in both.
func sharedCircuits(a, b []uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(a), func(id uint64) bool { return !slices.Contains(b, id) })
}

// newnymLab is a lab in which two devices have used circuits: each has one open connection by
// IPv4 and one by IPv6, and the first has asked for names by UDP and by TCP.
type newnymLab struct {
	*testnet.Lab
	theirs, others []*flow
	used, kept     []uint64 // circuits of the first, and of the second
}

func startNewnym(t *testing.T, args ...string) *newnymLab {
	t.Helper()
	lab := &newnymLab{Lab: torLab(t)}
	serveFlows(t, lab.Lab, testnet.Web4, testnet.Web6)
	attach(t, lab.Lab, append([]string{lan}, args...)...)
	lab.use(t)
	list := circuitsNow(t, lab.Lab)
	lab.used, lab.kept = circuitsOf(list, lab.Client1), circuitsOf(list, lab.Client2)
	if len(lab.used) == 0 || len(lab.kept) == 0 || len(sharedCircuits(lab.used, lab.kept)) > 0 {
		t.Fatalf("the devices have used %v and %v: %+v", lab.used, lab.kept, list)
	}
	return lab
}

func (lab *newnymLab) use(t *testing.T) {
	t.Helper()
	for _, addr := range []netip.Addr{testnet.Web4, testnet.Web6} {
		lab.theirs = append(lab.theirs, openFlow(t, lab.Client1, "tcp", at(addr, portFlows)))
		lab.others = append(lab.others, openFlow(t, lab.Client2, "tcp", at(addr, portFlows)))
	}
	for _, proto := range []string{"udp", "tcp"} {
		if _, err := testnet.DNSQuery(lab.Client1, lab.Client1.Resolver, "web."+testnet.Zone, "A", proto, torPatience); err != nil {
			t.Fatalf("by %s: %v", proto, err)
		}
	}
}

// check wants the first device's connections ended and its circuits gone, and the others' to
// go on.
func (lab *newnymLab) check(t *testing.T) {
	t.Helper()
	for _, f := range lab.theirs {
		if err := f.ends(); err != nil {
			t.Error(err)
		}
	}
	for _, f := range lab.others {
		if err := f.echo(); err != nil {
			t.Errorf("%s does not go on: %v", f.name, err)
		}
	}
	var there []uint64
	for _, c := range circuitsNow(t, lab.Lab) {
		there = append(there, c.ID)
	}
	if left := sharedCircuits(lab.used, there); len(left) > 0 {
		t.Errorf("circuits %v of the device are still there", left)
	}
	checkByTor(t, lab.Lab, lab.Client1, testnet.Web4)
	checkByTor(t, lab.Lab, lab.Client1, testnet.Web6)
	if again := sharedCircuits(lab.used, circuitsOf(circuitsNow(t, lab.Lab), lab.Client1)); len(again) > 0 {
		t.Errorf("it goes by circuits %v, which it has used before", again)
	}
}

// TestNewCircuitsOfOneDevice: it goes by none that it has used before, not even one that
// nothing went by any more, and nobody else's are touched.
func TestNewCircuitsOfOneDevice(t *testing.T) {
	for mode, args := range map[string][]string{"redirect": {"--tcp-mode", "redirect"}, "tproxy": byTProxy} {
		t.Run(mode, func(t *testing.T) {
			lab := startNewnym(t, args...)
			capture := captureWAN(t, lab.Lab)
			r := mustTorbpf(t, lab.Lab, "tor", "newnym", lab.Client1.IPv4.String())
			if want := fmt.Sprintf("%s goes by new circuits: %d that it has used are closed", lab.Client1.MAC, len(lab.used)); !strings.Contains(r.stdout, want) {
				t.Errorf("it does not say %q: %v", want, r)
			}
			there := circuitsNow(t, lab.Lab)
			lab.check(t)
			if kept := circuitsOf(there, lab.Client2); !slices.Equal(kept, lab.kept) {
				t.Errorf("the other device had circuits %v, and has %v", lab.kept, kept)
			}
			checkNoLeaks(t, capture)
		})
	}
}

// TestNewCircuitsWithoutMemory: where the sentry is dead, and nobody knows who has used which
// circuit, those go that nothing goes by, and connections of others go on all the same.
func TestNewCircuitsWithoutMemory(t *testing.T) {
	lab := startNewnym(t)
	kill(t, unix.SIGKILL, pidsNamed(t, lab.Lab, "torbpf-sentry")...)
	for _, c := range circuitsNow(t, lab.Lab) {
		if c.Known || len(c.Devices) > 0 {
			t.Errorf("without a sentry it is known of %+v", c)
		}
	}
	mustTorbpf(t, lab.Lab, "tor", "newnym", lab.Client1.MAC.String())
	lab.check(t)
}

// TestASentryTakesOverTheMemory of the one before, which each attach replaces.
func TestASentryTakesOverTheMemory(t *testing.T) {
	lab := startNewnym(t)
	mustTorbpf(t, lab.Lab, attachArgs(lab.Lab, lan)...)
	list := circuitsNow(t, lab.Lab)
	if used, kept := circuitsOf(list, lab.Client1), circuitsOf(list, lab.Client2); !slices.Equal(used, lab.used) || !slices.Equal(kept, lab.kept) {
		t.Errorf("the devices had used %v and %v, and now %v and %v", lab.used, lab.kept, used, kept)
	}
	mustTorbpf(t, lab.Lab, "tor", "newnym", lab.Client1.MAC.String())
	lab.check(t)
}

// TestADeviceCannotForgeCircuits by what it asks DNS for: tor's events have it as it is.
func TestADeviceCannotForgeCircuits(t *testing.T) {
	lab := startNewnym(t)
	forged := fmt.Sprintf("a\r\n650 STREAM 99999 NEW 0 b SOURCE_ADDR=%s:1", lab.Client1.IPv4)
	for _, id := range lab.kept {
		forged += fmt.Sprintf("\r\n650 STREAM 99999 SENTCONNECT %d c", id)
	}
	packet := []byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	for len(forged) > 0 {
		n := min(len(forged), 63)
		packet = append(append(packet, byte(n)), forged[:n]...)
		forged = forged[n:]
	}
	packet = append(packet, 0, 0, 1, 0, 1)
	conn, err := lab.Client1.Dial(t.Context(), "udp", lab.Client1.Resolver.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := &flow{"a forged name", conn}
	eventually(t, patience, "an answer to the forged name", func() error {
		if err := f.send(packet); err != nil {
			return err
		}
		return f.read(12)
	})
	list := circuitsNow(t, lab.Lab)
	if kept := circuitsOf(list, lab.Client2); !slices.Equal(kept, lab.kept) {
		t.Errorf("the other device had circuits %v, and has %v", lab.kept, kept)
	}
	if stolen := sharedCircuits(lab.kept, circuitsOf(list, lab.Client1)); len(stolen) > 0 {
		t.Errorf("it is said to have used %v", stolen)
	}
	mustTorbpf(t, lab.Lab, "tor", "newnym", lab.Client1.MAC.String())
	lab.check(t)
}

// TestNewCircuitsOfAll: open connections go on, what begins later goes by others; the second
// time within ten seconds takes until tor does it.
func TestNewCircuitsOfAll(t *testing.T) {
	lab := startNewnym(t)
	mustTorbpf(t, lab.Lab, "tor", "newnym")
	begun := time.Now()
	for _, f := range slices.Concat(lab.theirs, lab.others) {
		if err := f.echo(); err != nil {
			t.Errorf("%s does not go on: %v", f.name, err)
		}
	}
	exits := func() []string {
		openFlow(t, lab.Client1, "tcp", at(testnet.Web4, portFlows))
		openFlow(t, lab.Client2, "tcp", at(testnet.Web4, portFlows))
		var out []string
		for _, c := range circuitsNow(t, lab.Lab, "--targets") {
			if before := slices.Concat(lab.used, lab.kept); len(c.Targets) > 0 && !slices.Contains(before, c.ID) {
				out = append(out, c.Targets...)
			}
		}
		return out
	}
	if got := exits(); len(got) != 2 || got[0] != at(testnet.Web4, portFlows).String() {
		t.Errorf("by new circuits go %v, want what the devices have begun since", got)
	}
	r := mustTorbpf(t, lab.Lab, "tor", "newnym")
	if took := time.Since(begun); took < 9*time.Second || !strings.Contains(r.stderr, "once in 10s at most") {
		t.Errorf("the second took %v after the first: %v", took, r)
	}
	for _, args := range [][]string{{"no-such-device"}, {"a", "b"}} {
		if r := runTorbpf(t, lab.Lab, append([]string{"tor", "newnym"}, args...)...); r.code != 2 {
			t.Errorf("newnym %v: %v", args, r)
		}
	}
	if out := mustTorbpf(t, lab.Lab, "tor", "circuits").stdout; strings.Contains(out, testnet.Web4.String()) {
		t.Errorf("it tells where devices go: %s", out)
	}
}

// TestNewCircuitsWithSeveralTors: all of them are asked, and one that is gone has no circuit
// that anything could go by.
func TestNewCircuitsWithSeveralTors(t *testing.T) {
	lab := torLab(t)
	serveFlows(t, lab, testnet.Web4)
	devices := []*testnet.Node{lab.Client1, lab.Client2} // each uses the tor of its place
	for i, n := range devices {
		useTor(t, lab, n, i)
	}
	attach(t, lab, lan, "--tor-instances", "2")
	awaitTors(t, lab, true, true)
	flows := make([]*flow, len(devices))
	for i, n := range devices {
		flows[i] = openFlow(t, n, "tcp", at(testnet.Web4, portFlows))
	}
	r := mustTorbpf(t, lab, "tor", "newnym", devices[1].IPv4.String())
	if err := flows[1].ends(); err != nil || strings.Contains(r.stdout, "is gone") {
		t.Errorf("%v: %v", err, r)
	}
	if err := flows[0].echo(); err != nil {
		t.Errorf("%s does not go on: %v", flows[0].name, err)
	}
	kill(t, unix.SIGKILL, torPIDIn(t, lab, torFolders[1]))
	eventually(t, patience, "the end of a tor", func() error {
		r := mustTorbpf(t, lab, "tor", "newnym", devices[0].IPv4.String())
		if !strings.Contains(r.stdout, "(tor 1 is gone)") {
			return fmt.Errorf("it says %v", r)
		}
		return nil
	})
	if err := flows[0].ends(); err != nil {
		t.Error(err)
	}
	kill(t, unix.SIGKILL, torPIDIn(t, lab, torFolders[0]))
	eventually(t, patience, "the end of the other", func() error {
		if r := runTorbpf(t, lab, "tor", "newnym"); r.code != 1 || !strings.Contains(r.stderr, "sudo torbpf attach") {
			return fmt.Errorf("it says %v", r)
		}
		return nil
	})
}
