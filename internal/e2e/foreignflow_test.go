package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// foreignFlowtable is the user's own: what has been answered is forwarded from the netfilter
// hook at ingress on, which is after tc's and before all other rules.
const foreignFlowtable = `flowtable users { hook ingress priority 0; devices = { eth0, eth1 }; }
	chain forward {
		type filter hook forward priority filter; policy accept;
		meta l4proto { tcp, udp } flow add @users
	}`

// accelerated waits for a flow of client1's to be in a flowtable, which conntrack tells.
func accelerated(t *testing.T, lab *testnet.Lab, f *flow) {
	t.Helper()
	port := fmt.Sprintf("sport=%d ", netip.MustParseAddrPort(f.conn.LocalAddr().String()).Port())
	eventually(t, patience, f.name+" to be in the flowtable", func() error {
		if err := f.echo(); err != nil {
			return err
		}
		list := run(t, lab.Router, "conntrack", "-L")
		for line := range strings.Lines(list) {
			if strings.Contains(line, port) && strings.Contains(line, "[OFFLOAD]") {
				return nil
			}
		}
		return fmt.Errorf("conntrack has no such flow: %s", list)
	})
}

// TestForeignFlowtable: what a flowtable of the user's forwards goes past the guard of what is
// forwarded and all rules. So attach, status and doctor say so; nothing that was in it before stays there; what is
// direct may use it, and ends with its exclusion, also while the LAN program or our table is gone.
func TestForeignFlowtable(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	trial := lab.Router.Command(t.Context(), "nft", "-c", "-f", "-")
	trial.Stdin = strings.NewReader("table inet trial {\n" + foreignFlowtable + "\n}\n")
	if r := runCommand(t, trial); r.code != 0 {
		t.Skip("this kernel was built without flowtables (CONFIG_NFT_FLOW_OFFLOAD)")
	}
	userRules(t, lab, "inet", foreignFlowtable)
	serveFlows(t, lab, testnet.Web4, testnet.Other4)
	old := []*flow{
		openFlow(t, lab.Client1, "tcp", at(testnet.Web4, portFlows)),
		openFlow(t, lab.Client1, "udp", at(testnet.Web4, testnet.PortEcho)),
	}
	for _, f := range old {
		accelerated(t, lab, f)
	}
	told := func(r result, says string) {
		t.Helper()
		if !strings.Contains(r.stdout+r.stderr, "flowtable users_own users") || !strings.Contains(r.stdout+r.stderr, says) {
			t.Errorf("it does not tell of the flowtable, %s: %v", says, r)
		}
	}
	told(attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab)), "nothing is excluded")
	capture := captureWAN(t, lab)
	for _, f := range old {
		if err := f.ends(); err != nil {
			t.Error(err)
		}
	}
	checkNoLeaks(t, capture)
	told(runTorbpf(t, lab, "doctor"), "nothing is excluded")
	told(mustTorbpf(t, lab, "exclude", "add", other4), "delete the rule with `flow add`")
	told(mustTorbpf(t, lab, "status"), "past all rules")
	mustTorbpf(t, lab, "exclude", "del", other4)

	for _, fault := range []harm{{"nothing", func(*testing.T, *testnet.Lab) {}}, lanProgramGone, tableGone} {
		t.Run("exclusion removed after: "+fault.name, func(t *testing.T) { checkForeignFlowEnds(t, lab, fault) })
	}
}

// checkForeignFlowEnds has flows that are direct in the flowtable, and wants them to end with
// their exclusion.
func checkForeignFlowEnds(t *testing.T, lab *testnet.Lab, fault harm) {
	mustTorbpf(t, lab, "exclude", "add", other4)
	flows := []*flow{
		openFlow(t, lab.Client1, "tcp", at(testnet.Other4, portFlows)),
		openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho)),
	}
	for _, f := range flows {
		accelerated(t, lab, f)
	}
	fault.inflict(t, lab)
	mustTorbpf(t, lab, "exclude", "del", other4)
	capture := captureWAN(t, lab)
	for _, f := range flows {
		if err := f.ends(); err != nil {
			t.Error(err)
		}
	}
	checkNoLeaks(t, capture)
}
