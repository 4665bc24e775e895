package nft

import (
	"regexp"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
)

// TestCheckFindsEveryChange of a table that was right.
func TestCheckFindsEveryChange(t *testing.T) {
	for _, test := range []struct{ name, change, want string }{
		{"nothing", "", ""},
		{"a peer is cut off", "add element inet torbpf cut4 { 192.0.2.1 . 80 . 198.51.100.2 . 1025 . tcp }", ""},
		{"the table is gone", "delete table inet torbpf", "no table inet torbpf"},
		{"the ruleset is flushed", "flush ruleset", "no table inet torbpf"},
		{"the table sleeps", "add table inet torbpf { flags dormant; }", "table has flags 0x1"},
		{"the table is emptied", "flush table inet torbpf", "chain classify has 0 rules instead of 2"},
		{"a chain is emptied", "flush chain inet torbpf input_ports", "chain input_ports has 0 rules instead of 3"},
		{"a chain is gone", "flush chain inet torbpf input; flush chain inet torbpf input_ports; delete chain inet torbpf input_ports", "chain input_ports is missing"},
		{"a chain is added", "add chain inet torbpf mine", "chain mine is not torbpf's"},
		{"a policy is changed", "add chain inet torbpf forward { policy drop; }", "chain forward has another hook, priority or policy"},
		{"a rule is added", "add rule inet torbpf forward accept", "chain forward has 4 rules instead of 3"},
		{"a rule is put first", "insert rule inet torbpf forward accept", "chain forward has 4 rules instead of 3; chain forward: rule 1 differs (direct, as most of what is forwarded from a LAN)"},
		{"the comments are gone", "flush chain inet torbpf forward; add rule inet torbpf forward meta mark & 0x0f000000 == 0x01000000 accept; add rule inet torbpf forward meta mark & 0x0f000000 vmap @verdicts; add rule inet torbpf forward counter name blocked_class drop", "chain forward: rule 1 differs (direct, as most of what is forwarded from a LAN)"},
		{"a LAN is taken out", `delete element inet torbpf lans { "lan0" }`, "set lans has other elements"},
		{"the LANs are flushed", "flush set inet torbpf lans", "set lans has other elements"},
		{"a subnet is added", `add element inet torbpf local4 { "wan0" . 10.0.0.0/8 }`, "set local4 has other elements"},
		{"the subnets are flushed", "flush set inet torbpf local6", "set local6 has other elements"},
		{"a class is let through", "delete element inet torbpf verdicts { 0x02000000 }; add element inet torbpf verdicts { 0x02000000 : accept }", "set verdicts has other elements"},
		{"a class is diverted elsewhere", "delete element inet torbpf diversions { 0x08000000 }; add element inet torbpf diversions { 0x08000000 : goto divert_dns }", "set diversions has other elements"},
		{"a set is added", "add set inet torbpf mine { type mark; }", "set mine is not torbpf's"},
		{"a counter is added", "add counter inet torbpf mine", "counter mine is not torbpf's"},
		{"a quota is added", "add quota inet torbpf mine { over 1 mbytes; }", "counter mine is not torbpf's"},
		{"a counter counts", "reset counters table inet torbpf", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterFreshNetNS(t)
			if err := Apply(fullPlan()); err != nil {
				t.Fatal(err)
			}
			load(t, test.change)
			got, err := Check(fullPlan())
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(got, "; "); !strings.HasPrefix(all, test.want) || (test.want == "") != (all == "") {
				t.Errorf("Check says %q, want %q", all, test.want)
			}
			if err := Apply(fullPlan()); err != nil {
				t.Fatal(err)
			}
			wantDifferences(t, fullPlan())
		})
	}
}

// TestCheckKnowsATableWithoutLookUps: where the kernel could not have the whole one, Check tells
// what is wrong with that, and not how it differs from what cannot be.
func TestCheckKnowsATableWithoutLookUps(t *testing.T) {
	enterFreshNetNS(t)
	rs, err := builder{Plan: awaitingPlan(), strict: true}.build()
	if err != nil {
		t.Fatal(err)
	}
	if err := rs.apply(); err != nil {
		t.Fatal(err)
	}
	if got, err := Check(awaitingPlan()); err != nil || len(got) > 0 {
		t.Errorf("Check says %q, %v", got, err)
	}
	load(t, "flush chain inet torbpf forward")
	got, err := Check(awaitingPlan())
	if err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "chain forward has 0 rules") {
		t.Errorf("Check says %q, %v", got, err)
	}
}

// TestCheckFindsAnyRuleThatIsGone deletes each rule of the richest plans in turn.
func TestCheckFindsAnyRuleThatIsGone(t *testing.T) {
	for _, rich := range []func() *plan.Plan{marksPlan, clientPlan} {
		if lacksLookUps(t, rich()) {
			continue
		}
		enterFreshNetNS(t)
		if err := Apply(rich()); err != nil {
			t.Fatal(err)
		}
		rs, err := build(rich())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range rs.chains {
			for i := range c.rules {
				if err := Apply(rich()); err != nil {
					t.Fatal(err)
				}
				nft(t, "", "delete", "rule", "inet", plan.Table, c.Name, "handle", ruleHandle(t, c.Name, i))
				if got, err := Check(rich()); err != nil || len(got) == 0 {
					t.Errorf("rule %d of chain %s is gone: Check says %q, %v", i+1, c.Name, got, err)
				}
			}
		}
	}
}

// TestCheckTellsPlansApart: the table of one plan is not that of another.
func TestCheckTellsPlansApart(t *testing.T) {
	enterFreshNetNS(t)
	for i, applied := range goldens {
		if err := Apply(applied.plan()); err != nil {
			t.Fatal(err)
		}
		for j, checked := range goldens {
			got, err := Check(checked.plan())
			if err != nil {
				t.Fatal(err)
			}
			if same := len(got) == 0; same != (i == j) {
				t.Errorf("%s applied, %s checked: %q", applied.name, checked.name, got)
			}
		}
	}
}

// ruleHandle finds the handle of a rule by its place in the chain.
func ruleHandle(t *testing.T, chain string, index int) string {
	t.Helper()
	listing := nft(t, "", "-a", "list", "chain", "inet", plan.Table, chain)
	handles := regexp.MustCompile(`(?m)^\t\t.* # handle (\d+)$`).FindAllStringSubmatch(listing, -1)
	if index >= len(handles) {
		t.Fatalf("rule %d of chain %s is not in\n%s", index+1, chain, listing)
	}
	return handles[index][1]
}
