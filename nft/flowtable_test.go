package nft

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// needFlowtable asks nft itself whether this kernel has flowtables. One that has the module and
// not the thing fails the test.
func needFlowtable(t *testing.T) {
	t.Helper()
	enterFreshNetNS(t)
	out, err := runNft(`
table inet probe {
	flowtable f { hook ingress priority filter; devices = { lo }; }
	chain forward { type filter hook forward priority 0; flow add @f; }
}`, "-f", "-")
	if err == nil {
		nft(t, "", "delete", "table", "inet", "probe")
		return
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	modules := "/lib/modules/" + unix.ByteSliceToString(name.Release[:])
	if found, _ := filepath.Glob(modules + "/kernel/net/netfilter/nft_flow_offload.ko*"); len(found) > 0 {
		t.Fatalf("this kernel has the module %s, but nft says %s", found[0], out)
	}
	t.Skip("this kernel has no flowtables (CONFIG_NFT_FLOW_OFFLOAD)")
}

// flowPlan is fullPlan with a flowtable, for interfaces that it makes in the namespace of the
// calling thread.
func flowPlan(t *testing.T) *plan.Plan {
	t.Helper()
	p := fullPlan()
	p.Flowtable = true
	p.Uplinks = []plan.Uplink{{Name: "wan0"}}
	for _, name := range p.FlowDevices() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "to-" + name}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func mustAccelerate(t *testing.T, p *plan.Plan) {
	t.Helper()
	if err := errors.Join(Apply(p), Accelerate(p)); err != nil {
		t.Fatal(err)
	}
	if is, err := Accelerates(); !is || err != nil {
		t.Fatalf("it accelerates: %t, %v", is, err)
	}
	wantDifferences(t, p)
}

// TestFlowtableListsAsTheGoldenFile, and that file loads and lists as itself.
func TestFlowtableListsAsTheGoldenFile(t *testing.T) {
	needFlowtable(t)
	p := flowPlan(t)
	mustAccelerate(t, p)
	forgetOldFlows(t)
	got := nft(t, "", "-s", "list", "ruleset")
	file := filepath.Join("testdata", "flowtable.nft")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := readFile(t, file)
	if got != want {
		t.Errorf("Accelerate lists as\n%s\nwant\n%s", got, want)
	}
	nft(t, "", "flush", "ruleset")
	nft(t, want, "-f", "-")
	if got := nft(t, "", "-s", "list", "ruleset"); got != want {
		t.Errorf("after nft -f it lists as\n%s\nwant\n%s", got, want)
	}
}

// TestFlowtableIsCompared: whatever becomes of it is found, and Accelerate makes it anew.
func TestFlowtableIsCompared(t *testing.T) {
	needFlowtable(t)
	p := flowPlan(t)
	for _, test := range []struct {
		name, want string
		change     func() error
	}{
		{"a rule is gone", "chain accelerate has 0 rules instead of 3", lines("flush chain inet torbpf accelerate")},
		{"everything is added", "chain accelerate has 4 rules instead of 3", lines("insert rule inet torbpf accelerate flow add @direct")},
		{"an uplink more", "set uplinks has other elements", lines(`add element inet torbpf uplinks { "eth9" }`)},
		{"another flowtable", "flowtable mine is not torbpf's", lines("add flowtable inet torbpf mine { hook ingress priority 5; }")},
		{"a device is gone", "flowtable direct has other devices", func() error {
			return errors.Join(deleteLink("lan1"), lines("flush chain inet torbpf accelerate", "delete flowtable inet torbpf direct", "add flowtable inet torbpf direct { hook ingress priority 0; devices = { lan0, wan0 }; }")())
		}},
	} {
		mustAccelerate(t, p)
		if err := test.change(); err != nil {
			t.Fatal(err)
		}
		got, err := Check(p)
		if err != nil || !strings.Contains(strings.Join(got, "; "), test.want) {
			t.Errorf("%s: Check says %q, %v, want %q", test.name, got, err, test.want)
		}
	}
	switch err := Accelerate(p); {
	case err == nil: // from Linux 6.16 on the kernel knows devices by name, and waits for them
		wantDifferences(t, p)
	case errors.Is(err, kernel.ErrMissing) || !strings.Contains(err.Error(), "lan1"):
		t.Errorf("of a device that is gone it says %v", err)
	}
}

// TestFlowtableIsRemoved by Decelerate, which changes nothing else, and by Apply.
func TestFlowtableIsRemoved(t *testing.T) {
	needFlowtable(t)
	p := flowPlan(t)
	for name, remove := range map[string]func() error{"Decelerate": Decelerate, "Apply": func() error { return Apply(p) }} {
		mustAccelerate(t, p)
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		if is, err := Accelerates(); is || err != nil {
			t.Errorf("after %s: it accelerates: %t, %v", name, is, err)
		}
		if name == "Apply" {
			wantDifferences(t, p)
			continue
		}
		if got, err := Check(p); err != nil || strings.Join(got, "; ") != "set uplinks is not torbpf's" {
			t.Errorf("after %s: %q, %v", name, got, err)
		}
	}
	if err := errors.Join(Decelerate(), Remove(), Decelerate()); err != nil {
		t.Errorf("with nothing there: %v", err)
	}
}

// TestFlowtableIsMissedWithAReason where the kernel has none, and the table stays as it is.
func TestFlowtableIsMissedWithAReason(t *testing.T) {
	enterFreshNetNS(t)
	p := flowPlan(t)
	if err := Apply(p); err != nil {
		t.Fatal(err)
	}
	err := Accelerate(p)
	if err != nil {
		wantDifferences(t, p)
	}
	enterFreshNetNS(t)
	if tried := TryFlowtable(); (tried == nil) != (err == nil) || tried != nil && !errors.Is(tried, kernel.ErrMissing) {
		t.Errorf("tried without a plan it says %v, with one %v", tried, err)
	}
	if err == nil {
		needFlowtable(t)
		return
	}
	if !errors.Is(err, kernel.ErrMissing) || !strings.Contains(err.Error(), "CONFIG_NFT_FLOW_OFFLOAD") {
		t.Errorf("it says %v", err)
	}
}

func lines(commands ...string) func() error {
	return func() error {
		out, err := runNft(strings.Join(commands, "\n"), "-f", "-")
		if err != nil {
			return errors.New(out)
		}
		return nil
	}
}

func deleteLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

// userForward counts what the user's own rules see of what is forwarded.
const userForward = `
table inet user_forward {
	counter seen {}
	chain forward { type filter hook forward priority filter; counter name seen; }
}`

// flow is one between the client and the outside.
type flow struct {
	l    *lab
	conn net.Conn
}

// flow opens one to an echo server outside.
func (l *lab) flow(network, to string) *flow {
	l.t.Helper()
	f := &flow{l: l}
	err := errors.Join(l.outside.do(func() error { return l.echo(network, to) }), l.client.do(func() (err error) {
		ctx, cancel := context.WithTimeout(l.t.Context(), patience)
		defer cancel()
		f.conn, err = (&net.Dialer{}).DialContext(ctx, network, to)
		return err
	}))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { f.conn.Close() })
	return f
}

// echo serves in the calling thread's namespace.
func (l *lab) echo(network, addr string) error {
	if network == "udp" {
		conn, err := net.ListenPacket(network, addr)
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { conn.Close() })
		go answerPackets(conn, "!")
		return nil
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	l.t.Cleanup(func() { ln.Close() })
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		l.t.Cleanup(func() { conn.Close() })
		for buf := make([]byte, 1); ; {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write([]byte("!")); err != nil {
				return
			}
		}
	}()
	return nil
}

// say goes there and back.
func (f *flow) say(within time.Duration) error {
	if err := f.conn.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := f.conn.Write([]byte("?")); err != nil {
		return err
	}
	_, err := f.conn.Read(make([]byte, 1))
	return err
}

func (l *lab) seen() int {
	return countOf(l.t, nft(l.t, "", "list", "counter", "inet", "user_forward", "seen"))
}

// isFast says ten times something, and reports whether the user's rules have seen next to nothing
// of it.
func (f *flow) isFast() bool {
	f.l.t.Helper()
	before := f.l.seen()
	for range 10 {
		if err := f.say(patience); err != nil {
			f.l.t.Fatal(err)
		}
	}
	return f.l.seen()-before < 10
}

// flowLab is a lab with a flowtable, of which the client is judged direct.
func flowLab(t *testing.T) (*lab, *plan.Plan) {
	t.Helper()
	needFlowtable(t)
	l := newLab(t)
	p := l.plan()
	p.Flowtable = true
	p.Uplinks = []plan.Uplink{{Name: "wan0"}}
	l.apply(p)
	mustAccelerate(t, p)
	load(t, userForward)
	l.classifyAs(`iifname "lan0"`, abi.VerdictDirect, 0)
	return l, p
}

// flowsOut are one of each kind.
func (l *lab) flowsOut() map[string]*flow {
	l.t.Helper()
	flows := make(map[string]*flow)
	for name, to := range map[string]string{"tcp4": outside4 + ":4000", "tcp6": "[" + outside6 + "]:4000", "udp4": outside4 + ":4001", "udp6": "[" + outside6 + "]:4001"} {
		flows[name] = l.flow(name[:3], to)
	}
	return flows
}

// TestFlowtableCarriesWhatIsDirect past all rules, in both directions, until it is removed.
func TestFlowtableCarriesWhatIsDirect(t *testing.T) {
	l, p := flowLab(t)
	for name, f := range l.flowsOut() {
		l.eventually(name+" is fast", f.isFast)
		if err := Decelerate(); err != nil {
			t.Fatal(err)
		}
		l.eventually(name+" is seen by all rules", func() bool { return !f.isFast() })
		mustAccelerate(t, p)
		l.eventually(name+" is fast again", f.isFast)
	}
	if out := l.conntrack("-L"); !strings.Contains(out, "[OFFLOAD]") {
		t.Errorf("conntrack knows of no flow in a flowtable: %s", out)
	}
}

// TestFlowtableLeavesAllElse to the rules: what is of another class, or direct for a while only,
// or of none, or was begun outside.
func TestFlowtableLeavesAllElse(t *testing.T) {
	for name, class := range map[string]struct {
		verdict  abi.Verdict
		instance int
	}{
		"by a name": {abi.VerdictDirect, 1}, "by an interface": {abi.VerdictVia, 0}, "inbound": {abi.VerdictInbound, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l, p := flowLab(t)
			p.Exits = []plan.Exit{{Name: "wan0"}}
			mustAccelerate(t, p)
			l.classifyAs(`iifname "lan0"`, class.verdict, class.instance)
			for name, f := range l.flowsOut() {
				l.goesOn(name, f)
			}
		})
	}
	t.Run("from outside", func(t *testing.T) {
		l, _ := flowLab(t)
		if err := l.client.do(func() error { return l.echo("tcp", ":80") }); err != nil {
			t.Fatal(err)
		}
		f := &flow{l: l}
		err := l.outside.do(func() (err error) {
			f.conn, err = net.Dial("tcp", wan4+":8080")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.conn.Close() })
		l.goesOn("a visitor", f)
	})
}

// goesOn wants each packet of three seconds seen by the user's rules: conntrack has settled then.
func (l *lab) goesOn(name string, f *flow) {
	l.t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		if f.isFast() {
			l.t.Errorf("%s: it is fast", name)
			return
		}
	}
	if out := l.conntrack("-L"); strings.Contains(out, "[OFFLOAD]") {
		l.t.Errorf("%s: conntrack knows of a flow in a flowtable: %s", name, out)
	}
}

// TestFlowtableEndsWithConntrack: who deletes a flow there, as the cut-over does, ends it in both
// directions.
func TestFlowtableEndsWithConntrack(t *testing.T) {
	l, _ := flowLab(t)
	flows := l.flowsOut()
	for name, f := range flows {
		l.eventually(name+" is fast", f.isFast)
	}
	load(t, `add rule inet user_forward forward drop`) // what is fast does not hear of it
	for name, f := range flows {
		if err := f.say(patience); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.eventually("conntrack forgets", func() bool {
		l.conntrack("-F")
		l.conntrack("-F", "-f", "ipv6")
		return !strings.Contains(l.conntrack("-L")+l.conntrack("-L", "-f", "ipv6"), "[OFFLOAD]")
	})
	for name, f := range flows {
		if err := f.say(200 * time.Millisecond); err == nil {
			t.Errorf("%s: it goes on though conntrack has forgotten it", name)
		}
	}
}
