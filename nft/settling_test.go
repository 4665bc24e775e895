package nft

import (
	"context"
	"regexp"
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
)

// TestWhatNobodyTrackedIsNotInbound: where the kernel tracked nothing before, a
// peer's datagram may belong to a flow that the LAN began in clear. A SYN does
// not, and what a port forward translates was tracked.
func TestWhatNobodyTrackedIsNotInbound(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	if err := Apply(l.plan(), "lan0"); err != nil {
		t.Fatal(err)
	}
	wantDifferences(t, l.plan())
	if err := Apply(l.plan()); err != nil { // again: the time goes on
		t.Fatal(err)
	}
	l.serve(l.client, "tcp", ":80", "client")
	l.serve(l.client, "udp", ":81", "client")
	l.serve(l.client2, "udp", ":81", "client2")
	l.classifyAll()
	for _, what := range []struct{ name, network, to string }{
		{"udp", "udp", "[" + client6 + "]:81"}, {"udp without a forward", "udp", client4 + ":81"},
	} {
		l.mustDrop(DroppedBlocked, what.name, func(ctx context.Context) (string, error) {
			return ask(ctx, l.outside, what.network, "", what.to)
		})
	}
	l.mustAnswer("client", l.outside, "tcp", "["+client6+"]:80")
	l.mustAnswer("client", l.outside, "udp", wan4+":8081")
	l.mustAnswer("client2", l.outside, "udp", "["+client26+"]:81")
	forgetOldFlows(t)
	l.mustAnswer("client", l.outside, "udp", "["+client6+"]:81")
}

// TestWhatALostTableKnewIsAssumed: with the table goes who was cut off.
func TestWhatALostTableKnewIsAssumed(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	nft(t, "", "flush", "ruleset")
	if err := Apply(l.plan()); err != nil {
		t.Fatal(err)
	}
	l.serve(l.client, "udp", ":81", "client")
	l.classifyAll()
	l.mustDrop(DroppedBlocked, "udp", func(ctx context.Context) (string, error) {
		return ask(ctx, l.outside, "udp", "", "["+client6+"]:81")
	})
}

// TestALANSettlesFromItsLastAttach on, and one that is detached is forgotten.
func TestALANSettlesFromItsLastAttach(t *testing.T) {
	enterFreshNetNS(t)
	one, both := minimalPlan(), fullPlan()
	settling := func() string { return nft(t, "", "list", "set", "inet", "torbpf", setSettle) }
	for _, step := range []struct {
		plan  *plan.Plan
		fresh []string
		want  string // as a regular expression
	}{
		{one, []string{"lan0"}, `elements = { "lan0" expires (9m59|10m)[^,]* }`},
		{both, []string{"lan1"}, `elements = { "lan0" expires [^,]*,\s+"lan1" expires [^,]* }|elements = { "lan1" expires [^,]*,\s+"lan0" expires [^,]* }`},
		{one, nil, `elements = { "lan0" expires [^,]* }`},
	} {
		if err := Apply(step.plan, step.fresh...); err != nil {
			t.Fatal(err)
		}
		wantDifferences(t, step.plan)
		if got := settling(); !regexp.MustCompile(step.want).MatchString(got) {
			t.Errorf("settling after %v: %s\nwant %s", step.fresh, got, step.want)
		}
	}
	nft(t, "", "delete", "element", "inet", "torbpf", setSettle, `{ "lan0" }`)
	nft(t, "", "add", "element", "inet", "torbpf", setSettle, `{ "lan0" timeout 5s }`)
	if err := Apply(one, "lan0"); err != nil {
		t.Fatal(err)
	}
	if got := settling(); !regexp.MustCompile(`"lan0" (timeout 10m )?expires (9m59|10m)`).MatchString(got) {
		t.Errorf("attached once more: %s", got)
	}
}
