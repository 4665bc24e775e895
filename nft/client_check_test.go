package nft

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/plan"
)

// TestCheckFindsChangesOfWhatGuardsTheMachineItself in a table that was right.
func TestCheckFindsChangesOfWhatGuardsTheMachineItself(t *testing.T) {
	for _, test := range []struct{ name, change, want string }{
		{"nothing", "", ""},
		{"it settles", "flush set inet torbpf client_settling", ""},
		{"the policy is changed", "add chain inet torbpf client_guard { policy accept; }", "chain client_guard has another hook, priority or policy"},
		{"the guard is emptied", "flush chain inet torbpf client_guard", "chain client_guard has 0 rules instead of 8"},
		{"a destination is let out", "add element inet torbpf client_direct4 { 1.0.0.0/8 }", "set client_direct4 has other elements"},
		{"a destination grows", "delete element inet torbpf client_direct4 { 51.20.0.0/16 }; add element inet torbpf client_direct4 { 51.20.0.0/15 }", "set client_direct4 has other elements"},
		{"a destination is gone", "delete element inet torbpf client_direct6 { 2a0e::/32 }", "set client_direct6 has other elements"},
		{"a subnet is added", `add element inet torbpf client_local4 { "wan0" . 10.0.0.0/8 }`, "set client_local4 has other elements"},
		{"a class is let through", "delete element inet torbpf client_verdicts { 0x02000000 }; add element inet torbpf client_verdicts { 0x02000000 : accept }", "set client_verdicts has other elements"},
	} {
		t.Run(test.name, func(t *testing.T) {
			needLookUps(t, clientPlan())
			enterFreshNetNS(t)
			if err := Apply(clientPlan()); err != nil {
				t.Fatal(err)
			}
			load(t, test.change)
			got, err := Check(clientPlan())
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(got, "; "); !strings.HasPrefix(all, test.want) || (test.want == "") != (all == "") {
				t.Errorf("Check says %q, want %q", all, test.want)
			}
			if err := Apply(clientPlan()); err != nil {
				t.Fatal(err)
			}
			wantDifferences(t, clientPlan())
		})
	}
}

// TestApplyLeadsFromAnyClientModeToAnyOther and what it leaves is as it should be.
func TestApplyLeadsFromAnyClientModeToAnyOther(t *testing.T) {
	later := clientPlan()
	for i, o := range []plan.Opening{
		{Prefix: netip.MustParsePrefix("51.20.0.0/17"), Ends: time.Hour, Until: time.Unix(1<<40, 0)},
		{Prefix: netip.MustParsePrefix("51.20.128.0/17"), Ends: 2 * time.Hour, Until: time.Unix(1<<41, 0)},
		{Prefix: netip.MustParsePrefix("0.0.0.0/1")},
	} {
		later.Client.Direct[i] = o
	}
	plans := []*plan.Plan{minimalPlan(), clientPlan(), later, clientExecPlan(), clientAndLANsPlan()}
	enterFreshNetNS(t)
	for _, from := range plans {
		for _, to := range plans {
			for _, p := range []*plan.Plan{from, to} {
				if err := Apply(p); err != nil {
					t.Fatal(err)
				}
				wantDifferences(t, p)
			}
		}
	}
}

// TestADestinationThatEndsAtNoTimeIsNoRuleset: it would be let out for ever.
func TestADestinationThatEndsAtNoTimeIsNoRuleset(t *testing.T) {
	p := clientPlan()
	p.Client.Direct[0].Ends = time.Hour
	if _, err := build(p); err == nil {
		t.Error("a destination ends, nobody knows when, and it is let out")
	}
}

// TestFlowsSettleOnlyAfterClientModeBegins: not after each change of it.
func TestFlowsSettleOnlyAfterClientModeBegins(t *testing.T) {
	enterFreshNetNS(t)
	settles := func(p *plan.Plan) bool {
		t.Helper()
		if err := Apply(p); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(nft(t, "", "list", "set", "inet", plan.Table, setClientSettle), "elements")
	}
	if err := Apply(clientExecPlan()); err != nil {
		t.Fatal(err)
	}
	if !settles(clientPlan()) {
		t.Error("flows that are older than client mode may be taken for ones from outside")
	}
	forgetOldFlows(t)
	if settles(clientPlan()) {
		t.Error("flows settle anew after a change")
	}
}

// TestGuardsSeesThatTheMachinesOwnAreEmpty: the policy of one blocks all, and the daemon
// is to put that right.
func TestGuardsSeesThatTheMachinesOwnAreEmpty(t *testing.T) {
	enterFreshNetNS(t)
	for _, name := range []string{chainClientGuard, chainClientClassify} {
		if err := Apply(clientPlan()); err != nil {
			t.Fatal(err)
		}
		if whole, err := Guards(); err != nil || !whole {
			t.Errorf("Guards() = %t, %v of a whole table", whole, err)
		}
		nft(t, "", "flush", "chain", "inet", plan.Table, name)
		if whole, err := Guards(); err != nil || whole {
			t.Errorf("Guards() = %t, %v without the rules of %s", whole, err, name)
		}
	}
}
