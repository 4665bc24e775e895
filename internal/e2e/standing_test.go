package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// reasonFor is why a connection of a device's to the web is judged as it is.
func reasonFor(t *testing.T, lab *testnet.Lab, n *testnet.Node) string {
	t.Helper()
	var said struct {
		Reason string
		Ready  struct{ Reason string }
	}
	out := mustTorbpf(t, lab, "explain", "--from", n.IPv4.String(), "--to", testnet.Web4.String(), "--proto", "tcp", "--dport", "80", "--json").stdout
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatal(err)
	}
	if said.Ready.Reason != "" {
		return said.Ready.Reason
	}
	return said.Reason
}

// TestAStandingRuleOutlivesALifeOverIt: it holds again at once, whether or not the daemon is
// there to write it, and what is saved holds at the next boot.
func TestAStandingRuleOutlivesALifeOverIt(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "[[rules]]\ndevice = \""+testnet.MACClient1+"\"\npolicy = \"block\"\n")
	detachLater(t, lab)
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	n := lab.Client1
	checkNoEcho(t, n, testnet.Web4) // the neighbours know it from now on
	const blocked = "blocked-device"
	allow := func(args ...string) {
		t.Helper()
		r := mustTorbpf(t, lab, append([]string{"device", "allow", testnet.MACClient1, "--config", path, "--for", "3s"}, args...)...)
		if !strings.Contains(r.stdout, ", then block again") {
			t.Errorf("allow: %v", r)
		}
		checkDirect(t, n, testnet.Web4)
	}
	listed := func(want string) func() error {
		return func() error {
			if got := mustTorbpf(t, lab, "exclude", "list").stdout; !strings.Contains(got, "device  "+testnet.MACClient1+"  "+want) {
				return fmt.Errorf("the rules are %s", got)
			}
			return nil
		}
	}

	allow()
	eventually(t, 3*patience, "the life to end", listed("block"))
	checkNoEcho(t, n, testnet.Web4)
	if got := reasonFor(t, lab, n); got != blocked {
		t.Errorf("after a life, with nobody there, the device is judged by %s, want %s", got, blocked)
	}
	if r := mustTorbpf(t, lab, "explain", "--from", testnet.MACClient1, "--to", testnet.Web4.String()); !strings.Contains(r.stdout, "the rule device "+testnet.MACClient1+" (block)") {
		t.Errorf("explained as %s", r.stdout)
	}
	r := mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	if strings.Contains(r.stdout, "kept") {
		t.Errorf("what has ended is kept: %v", r)
	}
	if got := reasonFor(t, lab, n); got != blocked {
		t.Errorf("after a life and apply the device is judged by %s, want %s", got, blocked)
	}
	if r := runTorbpf(t, lab, "check", "--layers"); r.code != 0 {
		t.Errorf("check: %v", r)
	}

	allow("--save")
	mustTorbpf(t, lab, "detach", "--all")
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	eventually(t, 3*patience, "the saved life to end", listed("block"))

	startRun(t, lab, path)
	allow()
	eventually(t, 3*patience, "the block to be back", func() error {
		if got := reasonFor(t, lab, n); got != blocked {
			return fmt.Errorf("judged by %s, want %s", got, blocked)
		}
		return nil
	})
}
