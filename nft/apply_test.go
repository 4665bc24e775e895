package nft

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// foreignRules bear names like ours where that is allowed.
const foreignRules = `
table ip torbpf {
	chain forward { type filter hook forward priority -10; policy drop; tcp dport 22 counter accept; }
}
table inet user {
	set lans { type ifname; elements = { "lan0" }; }
	chain input { type filter hook input priority 0; policy accept; iifname @lans accept; }
}
table netdev user {
	chain ingress { type filter hook ingress device "lo" priority 0; policy accept; }
}
`

func TestForeignTablesAreLeftAlone(t *testing.T) {
	enterFreshNetNS(t)
	load(t, foreignRules)
	want := nft(t, "", "list", "ruleset")
	for _, p := range []*plan.Plan{minimalPlan(), fullPlan()} {
		if err := Apply(p); err != nil {
			t.Fatal(err)
		}
	}
	forgetOldFlows(t) // or a second would pass between the two listings
	ours := nft(t, "", "list", "table", "inet", plan.Table)
	if got := strings.Replace(nft(t, "", "list", "ruleset"), ours, "", 1); got != want {
		t.Errorf("beside our table Apply left\n%s\nwant\n%s", got, want)
	}
	if err := Remove(); err != nil {
		t.Fatal(err)
	}
	if got := nft(t, "", "list", "ruleset"); got != want {
		t.Errorf("Remove left\n%s\nwant\n%s", got, want)
	}
}

func TestRemoveWithoutATableIsNoError(t *testing.T) {
	enterFreshNetNS(t)
	for range 2 {
		if err := Remove(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPresentFollowsTheTable(t *testing.T) {
	enterFreshNetNS(t)
	load(t, foreignRules)
	wantPresent(t, false)
	if err := Apply(minimalPlan()); err != nil {
		t.Fatal(err)
	}
	wantPresent(t, true)
	if err := Remove(); err != nil {
		t.Fatal(err)
	}
	wantPresent(t, false)
}

func wantPresent(t *testing.T, want bool) {
	t.Helper()
	if got, err := Present(); err != nil || got != want {
		t.Errorf("Present() = %t, %v, want %t", got, err, want)
	}
}

// TestApplyReplacesWhateverIsThere by that name, and twice is as good as once.
func TestApplyReplacesWhateverIsThere(t *testing.T) {
	for name, rules := range map[string]string{
		"sleeping":          `flags dormant; chain forward { type filter hook forward priority 0; }`,
		"other cut sets":    `set cut4 { type ipv4_addr; elements = { 10.0.0.1 }; }`,
		"cut sets that age": `set cut4 { type ipv4_addr; timeout 10m; elements = { 10.0.0.1 }; }`,
		"an object":         `quota mine { over 1 mbytes; }; chain strange { quota name mine accept; }`,
		"nothing of ours":   `chain strange { accept; }; chain input { type filter hook input priority 0; jump strange; }`,
	} {
		t.Run(name, func(t *testing.T) {
			enterFreshNetNS(t)
			load(t, "table inet torbpf { "+rules+"; }")
			for range 3 {
				if err := Apply(fullPlan()); err != nil {
					t.Fatal(err)
				}
				wantDifferences(t, fullPlan())
			}
		})
	}
}

// TestApplyRepairsDamageAroundCutPeers without a peer being heard again.
func TestApplyRepairsDamageAroundCutPeers(t *testing.T) {
	for name, damage := range map[string]string{
		"none":              "",
		"an emptied table":  "flush table inet torbpf",
		"a missing chain":   "flush chain inet torbpf divert; delete chain inet torbpf divert",
		"a missing map":     "flush chain inet torbpf forward; delete map inet torbpf verdicts",
		"a missing counter": "flush chain inet torbpf cut_peers; delete counter inet torbpf cut_peer",
		"a missing cut set": "flush chain inet torbpf cut_peers; delete set inet torbpf cut6",
		"foreign parts": `
			add chain inet torbpf mine
			add map inet torbpf theirs { type mark : verdict; elements = { 1 : jump mine }; }
			add set inet torbpf others { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
			add counter inet torbpf count
			add rule inet torbpf mine ip saddr @others counter name count accept
			add rule inet torbpf input meta mark vmap @theirs
			add rule inet torbpf input tcp dport { 1, 2, 3 } meta mark vmap { 2 : jump mine, 3 : drop }
			add chain inet torbpf late { type filter hook input priority 99; policy drop; }`,
	} {
		t.Run(name, func(t *testing.T) {
			enterFreshNetNS(t)
			flows := someFlows(5)
			if err := errors.Join(Apply(fullPlan()), AddCut(flows)); err != nil {
				t.Fatal(err)
			}
			load(t, damage)
			for range 2 {
				if err := Apply(fullPlan()); err != nil {
					t.Fatal(err)
				}
				wantDifferences(t, fullPlan())
			}
			if got := len(cutElementsOf(t, setCut4)); got != len(flows) {
				t.Errorf("%d of %d cut peers are left", got, len(flows))
			}
		})
	}
}

// TestApplyRefusesAPlanThatWouldLeak and leaves the table as it was.
func TestApplyRefusesAPlanThatWouldLeak(t *testing.T) {
	enterFreshNetNS(t)
	if err := Apply(minimalPlan()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*plan.Plan){
		"no LAN":                      func(p *plan.Plan) { p.LANs = nil },
		"a name that would be cut":    func(p *plan.Plan) { p.LANs[0].Name = "sixteen-letters0" },
		"a name that is empty":        func(p *plan.Plan) { p.LANs[0].Name = "" },
		"no TransPort":                func(p *plan.Plan) { p.Ports.Trans = 0 },
		"no DNSPort":                  func(p *plan.Plan) { p.Ports.DNS = 0 },
		"no port of the sentry":       func(p *plan.Plan) { p.Ports.Resolver = 0 },
		"a mark in our bits":          func(p *plan.Plan) { p.Rules = config.DirectMarks(config.Mark{Value: 0x01000001, Mask: 0xff0000ff}) },
		"a mark all packets have":     func(p *plan.Plan) { p.Rules = config.DirectMarks(config.Mark{Value: 0, Mask: 0}) },
		"a mark all but a few have":   func(p *plan.Plan) { p.Rules = config.DirectMarks(config.Mark{Value: 0, Mask: 0xff}) },
		"a mark outside its own mask": func(p *plan.Plan) { p.Rules = config.DirectMarks(config.Mark{Value: 0x100, Mask: 0xff}) },
		"a mask of nothing but ours":  func(p *plan.Plan) { p.Rules = config.DirectMarks(config.Mark{Value: 0, Mask: 0xff000000}) },
		"a local interface cut likely": func(p *plan.Plan) {
			p.Local = []plan.LocalSubnet{{Name: "sixteen-letters0", Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
		},
	} {
		p := minimalPlan()
		spoil(p)
		if err := Apply(p); err == nil {
			t.Errorf("%s: applied", name)
		}
		wantDifferences(t, minimalPlan())
	}
}

// TestNothingPassesWhileTheTableIsReplaced floods the router meanwhile, with
// plans by turns that differ in chains, maps, LANs and rules.
func TestNothingPassesWhileTheTableIsReplaced(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.classify(`iifname "lan0" udp dport 80`, abi.VerdictRefused)
	heard := l.outside.countFrom(t, client6)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	for _, port := range []string{"80", "81"} { // refused, and without a class
		go func() { done <- flood(ctx, l.client, "["+outside6+"]:"+port) }()
	}
	other := l.plan()
	other.LANs = append(other.LANs, plan.LAN{Name: "lan2"})
	other.Rules = config.DirectMarks(config.Mark{Value: 0x1, Mask: 0xff})
	other.Inbound = false
	plans := []*plan.Plan{l.plan(), other, other}
	for i := range 150 {
		blocked, unjudged := l.drops(DroppedBlocked), l.drops(DroppedUnjudged)
		l.apply(plans[i%len(plans)])
		l.eventually("both floods go on", func() bool {
			return l.drops(DroppedBlocked) > blocked && l.drops(DroppedUnjudged) > unjudged
		})
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if got := heard(); got != 0 {
		t.Errorf("%d packets got out", got)
	}
}

// TestApplyPrevailsWhileOthersChangeRules: a transaction of somebody else makes
// what we read stale, and what we write must not undo it.
func TestApplyPrevailsWhileOthersChangeRules(t *testing.T) {
	enterFreshNetNS(t)
	if err := Apply(fullPlan()); err != nil {
		t.Fatal(err)
	}
	flows := someFlows(500)
	meanwhile(t, len(flows), func(i int) error { return AddCut(flows[i : i+1]) }, func() {
		if err := Apply(fullPlan()); err != nil {
			t.Fatal(err)
		}
	})
	if got := len(cutElementsOf(t, setCut4)); got != len(flows) {
		t.Errorf("%d of %d cut peers are left", got, len(flows))
	}
}

// TestAStaleReadIsNotWritten: a peer cut off since would be heard again.
func TestAStaleReadIsNotWritten(t *testing.T) {
	enterFreshNetNS(t)
	if err := Apply(minimalPlan()); err != nil {
		t.Fatal(err)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	rs, err := build(minimalPlan())
	if err != nil {
		t.Fatal(err)
	}
	var old state
	generation, err := readUnchanged(conn, func() (err error) {
		old, err = rs.readState(conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := AddCut(someFlows(1)); err != nil {
		t.Fatal(err)
	}
	if err := rs.write(conn, old, generation); !errors.Is(err, unix.ERESTART) {
		t.Errorf("write says %v, want ERESTART", err)
	}
	if got := len(cutElementsOf(t, setCut4)); got != 1 {
		t.Errorf("%d cut peers are left, want 1", got)
	}
}

// TestCheckPrevailsWhileTheTableIsReplaced: half a listing of the old table and
// half of the new differ from either.
func TestCheckPrevailsWhileTheTableIsReplaced(t *testing.T) {
	enterFreshNetNS(t)
	if err := Apply(fullPlan()); err != nil {
		t.Fatal(err)
	}
	replace := func(int) error { return errors.Join(Remove(), Apply(fullPlan())) }
	meanwhile(t, 200, replace, func() {
		got, err := Check(fullPlan())
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(got, "; "); all != "" && all != "no table inet torbpf" {
			t.Errorf("Check says %q", all)
		}
	})
}

// meanwhile repeats one thing in the test's namespace and, until that is done,
// another on the test's own thread.
func meanwhile(t *testing.T, times int, other func(int) error, own func()) {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	done := make(chan error, 1)
	go func() {
		done <- (&node{ns: here}).do(func() error {
			for i := range times {
				if err := other(i); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	for {
		own()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

func TestCountersOutliveTheTable(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.wantPing(l.client, "lan0", abi.VerdictTor, DroppedBlocked)
	before := l.drops(DroppedBlocked)
	l.apply(l.plan())
	if got := l.drops(DroppedBlocked); got < before || before == 0 {
		t.Errorf("%d drops before, %d after", before, got)
	}
	if err := Remove(); err != nil {
		t.Fatal(err)
	}
	if drops, err := Drops(); err != nil || len(drops) != 0 {
		t.Errorf("Drops() = %v, %v without a table", drops, err)
	}
}

func wantDifferences(t *testing.T, p *plan.Plan, want ...string) {
	t.Helper()
	got, err := Check(p)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("Check says %q, want %q", got, want)
	}
}

// cutElementsOf lists one of the cut sets.
func cutElementsOf(t *testing.T, name string) []nftables.SetElement {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.GetSetByName(table(), name)
	if err != nil {
		t.Fatal(err)
	}
	elements, err := conn.GetSetElements(s)
	if err != nil {
		t.Fatal(err)
	}
	return elements
}

// someFlows are masqueraded TCP connections from a LAN to one web server.
func someFlows(n int) []plan.Flow {
	flows := make([]plan.Flow, n)
	for i := range flows {
		port := uint16(10000 + i)
		flows[i] = plan.Flow{
			Protocol: 6,
			Src:      netip.AddrPortFrom(netip.MustParseAddr(client4), port),
			Dst:      netip.MustParseAddrPort(outside4 + ":80"),
			ReplySrc: netip.MustParseAddrPort(outside4 + ":80"),
			ReplyDst: netip.AddrPortFrom(netip.MustParseAddr(wan4), port),
		}
	}
	return flows
}

// flood sends datagrams until the context ends.
func flood(ctx context.Context, n *node, to string) error {
	var conn net.Conn
	err := n.do(func() (err error) {
		conn, err = net.Dial("udp", to)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	for ctx.Err() == nil {
		if _, err := conn.Write([]byte("flood")); err != nil {
			return err
		}
	}
	return nil
}
