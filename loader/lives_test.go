package loader

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// lifeOver is a direct rule that ends, over one that does not.
func lifeOver(e config.Entry, ends time.Duration, standing config.Policy) config.Rule {
	r := config.Direct(e)
	r.Until, r.Ends, r.Beneath = time.Unix(1, 0), ends, &config.Rule{Policy: standing}
	return r
}

// TestALifeEndsIntoWhatIsBeneathIt by the boot clock, with nobody there: not into a wider
// rule that lets out.
func TestALifeEndsIntoWhatIsBeneathIt(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	source := config.Entry{Kind: config.KindSource, Prefix: netip.MustParsePrefix(clientAddr + "/32")}
	p := l.plan()
	p.Rules = append(config.DirectPrefixes(config.KindSource, prefixes("192.168.50.0/24")...), lifeOver(source, 1<<62, config.PolicyBlock))
	apply(t, d, p)
	e, err := d.Explainer(p)
	must(t, err)
	defer e.Close()
	lan, err := net.InterfaceByName("lan0")
	must(t, err)
	judged := func() abi.Reason {
		said, err := e.Judge(plan.LAN{Index: lan.Index, Ethernet: true}, frameTo(otherAddr, 7000), 0)
		must(t, err)
		return said.Reason
	}
	if got := judged(); got != abi.ReasonDirectSource {
		t.Errorf("before its end it is judged by %s", got)
	}
	if m, ok, err := e.Source(source.Prefix.Addr()); err != nil || !ok || m.Beneath || m.Policy != abi.PolicyDirect || m.Ends != 1<<62 {
		t.Errorf("before its end the rule is %+v, %t, %v", m, ok, err)
	}
	now, err := kernel.BootTime()
	must(t, err)
	ends := now + time.Second
	p.Rules[1].Ends = ends
	must(t, fillRules(e.maps, p)) // as if it had been so from the first
	await(t, "its end", func() bool { return judged() != abi.ReasonDirectSource })
	later, err := kernel.BootTime()
	must(t, err)
	if got := judged(); got != abi.ReasonBlockedSource || later < ends {
		t.Errorf("after its end at %s, at %s, it is judged by %s", ends, later, got)
	}
	m, ok, err := e.Source(source.Prefix.Addr())
	if rule, known := m.Of(p.Rules); err != nil || !ok || !m.Beneath || m.Policy != abi.PolicyBlock || m.Ends != 0 || !known || rule.Entry != source {
		t.Errorf("after its end the rule is %+v, %t, %v", m, ok, err)
	}
}

// TestWhatLetsOutIsNotWrittenBeneathARule: nobody would be there to say that it may.
func TestWhatLetsOutIsNotWrittenBeneathARule(t *testing.T) {
	over := lifeOver(config.Entry{Kind: config.KindSource, Prefix: netip.MustParsePrefix(clientAddr + "/32")}, time.Hour, config.PolicyDirect)
	if value, err := ruleValue(0, over); err == nil {
		t.Errorf("it is written as %+v", value)
	}
	over.Beneath = &config.Rule{Policy: config.PolicyTor, Until: time.Unix(1, 0)}
	if value, err := ruleValue(0, over); err == nil {
		t.Errorf("one whose end nobody knows is written as %+v", value)
	}
	over.Beneath.Ends = 2 * time.Hour
	value, err := ruleValue(0, over)
	if err != nil || value.Then != abi.PolicyTor || value.ThenUntilNs != uint64(2*time.Hour) {
		t.Errorf("it is written as %+v, %v", value, err)
	}
}
