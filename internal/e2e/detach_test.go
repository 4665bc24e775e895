package e2e

import (
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestDetachLeavesNothing: after detach the router is byte for byte what it was,
// whatever happened in between.
func TestDetachLeavesNothing(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	// The user's own: a qdisc with a filter where ours go, marks, rules, routes.
	for _, command := range []string{
		"tc qdisc add dev eth1 clsact", "tc filter add dev eth1 ingress protocol ip prio 7 u32 match u32 0 0 classid 1:1",
		"ip rule add fwmark 0x77/0xff lookup 77 priority 900", "ip route add 203.0.113.0/24 via 62.10.0.1 table 77",
	} {
		words := strings.Fields(command)
		run(t, lab.Router, words[0], words[1:]...)
	}
	// The user's own marks of connections from outside stay.
	userRules(t, lab, "inet", `chain marks { type filter hook prerouting priority -140;
		iifname "eth0" ct state new ct mark set 0x5
	}`)
	old := inboundFlow(t, lab)
	before := takeSnapshot(t, lab)
	if before["conntrack mark"] != "mark=5" {
		t.Fatalf("marks of connections: %s", before["conntrack mark"])
	}
	for _, mode := range []struct {
		name string
		args []string
	}{
		{"tcx", nil},
		{"clsact", []string{"--clsact"}},
		{"everything", []string{"--exclude", other4, "--exclude-source", "192.168.50.12", "--exclude-mark", "0x100"}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			attach(t, lab, append([]string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}, mode.args...)...)
			if now := takeSnapshot(t, lab); now["nft list ruleset"] == before["nft list ruleset"] || now["bpf hooks"]+now["tc filter show dev eth1 ingress"] == before["bpf hooks"]+before["tc filter show dev eth1 ingress"] {
				t.Fatal("attach is not to be seen in the snapshot")
			}
			sendStrays(t, lab.Client1)
			if err := old.ask(); err != nil {
				t.Error(err)
			}
			newer := inboundFlow(t, lab)
			if r := mustTorbpf(t, lab, "detach", "--all"); !strings.Contains(r.stdout, "traffic goes directly again") {
				t.Errorf("detach: %v", r)
			}
			before.checkSame(t, takeSnapshot(t, lab))
			for _, f := range []*httpFlow{old, newer} {
				if err := f.ask(); err != nil {
					t.Errorf("a port forward after detach: %v", err)
				}
			}
			checkDirect(t, lab.Client1, testnet.Web4)
			if r := runTorbpf(t, lab, "status"); r.code != 3 {
				t.Errorf("status after detach: %v", r)
			}
			if r := runTorbpf(t, lab, "detach", "--all"); r.code != 3 {
				t.Errorf("detach after detach: %v", r)
			}
		})
	}
}

// TestSecondNamespaceKeepsItsOwn: detaching in one network namespace leaves the
// torbpf of another alone.
func TestSecondNamespaceKeepsItsOwn(t *testing.T) {
	one, two := plainLab(t, testnet.Options{}), plainLab(t, testnet.Options{})
	for _, lab := range []*testnet.Lab{one, two} {
		attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	}
	before := takeSnapshot(t, two)
	mustTorbpf(t, one, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, two))
	if r := runTorbpf(t, two, "status"); r.code != 0 {
		t.Errorf("status: %v", r)
	}
	if left := files(t, stateDir(t, one), pinDir(t, one)); left != "" {
		t.Errorf("left of the first:\n%s", left)
	}
}
