package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// links of a router: an uplink, and interfaces of every kind that planning tells apart, as the
// kernel lists them (kinds, masters and parents as rtnetlink has them).
var links = []plan.Link{
	{Index: 1, Name: "lo", Loopback: true},
	{Index: 2, Name: "eth0", Ethernet: true},
	{Index: 3, Name: "eth1", Ethernet: true},
	{Index: 4, Name: "br0", Kind: "bridge", Ethernet: true},
	{Index: 5, Name: "port0", Kind: "veth", Ethernet: true, Master: 4},
	{Index: 6, Name: "trunk0", Ethernet: true},
	{Index: 7, Name: "trunk0.10", Kind: "vlan", Ethernet: true, Parent: 6},
	{Index: 8, Name: "bare0", Ethernet: true},
	{Index: 9, Name: "docker0", Kind: "bridge", Ethernet: true},
	{Index: 10, Name: "ppp0", Kind: "ppp"},
	{Index: 11, Name: "dsl0", Ethernet: true},
	{Index: 12, Name: "dsl0.7", Kind: "vlan", Ethernet: true, Parent: 11},
}

func router() plan.Host {
	addr := func(index int, prefix string) plan.Addr {
		return plan.Addr{Index: index, Prefix: netip.MustParsePrefix(prefix)}
	}
	return plan.Host{
		Links: slices.DeleteFunc(slices.Clone(links), func(l plan.Link) bool { return l.Name == "docker0" }),
		Addrs: []plan.Addr{addr(2, "203.0.113.2/24"), addr(3, "192.168.50.1/24"), addr(4, "192.168.60.1/24"), addr(7, "192.168.70.1/24")},
		Routes: []plan.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Index: 2, Table: 254, By: true},
			{Dst: netip.MustParsePrefix("192.168.50.0/24"), Index: 3, Table: 254},
		},
		CPUs: 2, Ephemeral: 32768, TimeServer: true,
	}
}

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// sound are the facts of a router with nothing wrong, eth1 attached.
func sound(t *testing.T) *Facts {
	t.Helper()
	f := &Facts{
		Root: true, Attached: true, Interfaces: []string{"eth1"}, Fit: []string{"eth1"}, Host: router(), Config: config.Default(),
		Kernel:     Kernel{Release: "6.18.1-amd64", BTF: true, BPFFS: true, Forward: true},
		Tor:        Tor{Version: "0.4.9.11", ValidAfter: now.Add(-time.Hour), ValidUntil: now.Add(2 * time.Hour), Built: now.Add(-24 * time.Hour), Now: now},
		Status:     Status{Alive: true, Ready: true, Percent: 100},
		Boot:       Boot{Managed: true, Service: true, Enabled: true, File: config.DefaultFile},
		Flowtables: []string{"torbpf direct"}, // as fastpath = "flowtable" has it
		Advice:     map[string][]Advice{}, Unread: map[string]error{},
	}
	f.Config.Interfaces = []string{"eth1"}
	f.plan(t)
	return f
}

func (f *Facts) plan(t *testing.T) {
	t.Helper()
	p, err := plan.Make(f.Config, f.Host)
	if err != nil {
		t.Fatal(err)
	}
	f.Plan = p
}

// refuse plans for an interface that is none to attach, on a host that is changed for it.
func refuse(name string, change func(*config.Config, *plan.Host)) func(*testing.T, *Facts) {
	return func(t *testing.T, f *Facts) {
		cfg := f.Config
		cfg.Interfaces = []string{name}
		if change != nil {
			change(&cfg, &f.Host)
		}
		_, err := plan.Make(cfg, f.Host)
		var r *plan.Refusal
		if !errors.As(err, &r) {
			t.Fatalf("%s is not refused: %v", name, err)
		}
		f.Refusals = append(f.Refusals, r)
	}
}

func excluding(f *Facts) {
	entry, err := config.ParseEntry(config.KindDestination, "104.16.0.0/13")
	if err != nil {
		panic(err)
	}
	f.Config.Rules = config.Rules{{Entry: entry, Policy: config.PolicyDirect}}
}

// fault is one thing that is wrong, and what has to be said of it.
type fault struct {
	name    string
	do      func(*testing.T, *Facts)
	id      string
	verdict Verdict
	says    []string // in the reason, or in what to type
}

func set(do func(*Facts)) func(*testing.T, *Facts) {
	return func(_ *testing.T, f *Facts) { do(f) }
}

var faults = []fault{
	{"an old kernel", set(func(f *Facts) { f.Kernel.Release = "5.4.0" }), "kernel-version", Problem, []string{"5.4.0", "5.10"}},
	{"a kernel without a version", set(func(f *Facts) { f.Kernel.Release = "mine" }), "kernel-version", Note, []string{`"mine"`}},
	{"programs are refused", set(func(f *Facts) { f.Kernel.BPF = errors.New("load BPF programs: no") }), "kernel-bpf", Problem, []string{"load BPF programs: no"}},
	{"a kernel before 6.4", set(func(f *Facts) { f.Kernel.Forward = false; f.Kernel.Lacks = nil }), "kernel-bpf", Note, []string{"ip rules"}},
	{"a layer that is lacking", set(func(f *Facts) { f.Kernel.Lacks = []string{"no guard dns"} }), "kernel-bpf", Note, []string{"no guard dns"}},
	{"the table is refused", set(func(f *Facts) { f.Kernel.NFT = errors.New("add table: no nf_tables") }), "kernel-nft", Problem, []string{"no nf_tables"}},
	{"no BTF, and a fast path", set(func(f *Facts) { f.Kernel.BTF = false; f.Config.FastPath = config.FastPathAuto }), "kernel-btf", Warning, []string{"fastpath off"}},
	{"no bpffs", set(func(f *Facts) { f.Kernel.BPFFS = false }), "bpffs", Problem, []string{"bpffs"}},
	{"pins are gone", set(func(f *Facts) { f.Kernel.Pins = errors.New("find bpffs") }), "bpffs", Problem, []string{"torbpf attach"}},

	{"no such interface", refuse("eth9", nil), "interface", Problem, []string{"eth9", "did you mean eth0 or eth1"}},
	{"loopback", refuse("lo", nil), "interface", Problem, []string{"lo"}},
	{"a port of a bridge", refuse("port0", nil), "bridge-port", Problem, []string{"port0 is a port of bridge br0", "torbpf attach br0"}},
	{"a VLAN on it", refuse("trunk0", nil), "sub-interfaces", Problem, []string{"trunk0 is a trunk", "torbpf attach trunk0.10"}},
	{"the modem's VLAN below PPPoE", refuse("dsl0", nil), "sub-interfaces", Problem, []string{"dsl0.7"}},
	{"bridge-nf-call", refuse("br0", func(_ *config.Config, h *plan.Host) { h.BridgeNF = true }), "bridge-nf-call", Problem, []string{"sysctl -w net.bridge.bridge-nf-call-iptables=0"}},
	{"the uplink", refuse("eth0", nil), "default-route", Problem, []string{"eth0 has the default route", "torbpf attach eth1"}},
	{"no address", refuse("bare0", nil), "address", Problem, []string{"ip addr add"}},
	{"an uplink that is not to be seen", refuse("eth1", func(_ *config.Config, h *plan.Host) { h.Routes[0].Index = 77 }), "uplink", Problem, []string{"interface 77", "--uplink"}},
	{"no uplink", set(func(f *Facts) { f.Advice[CheckUplink] = []Advice{Advise("no uplink", "name one")} }), "uplink", Warning, []string{"name one"}},
	{"no forwarding", set(func(f *Facts) { f.Advice[CheckForward] = []Advice{Advise("does not forward", "turn it on")} }), "forwarding", Warning, []string{"turn it on"}},

	{"another's mark", refuse("eth1", func(_ *config.Config, h *plan.Host) {
		h.Rules = []plan.Rule{{Priority: 7, Mark: 0x1000000, Mask: 0xff000000, Family: 4}}
	}), "marks", Problem, []string{"priority 7", "--mark-shift 16"}},
	{"a rule that wipes the mark", set(func(f *Facts) { f.Firewall.Wiping = []string{"inet mangle pre"} }), "marks", Warning, []string{"inet mangle pre", "0xff000000"}},
	{"ip rules of others", set(func(f *Facts) {
		f.Kernel.Forward, f.Kernel.Lacks = false, []string{}
		f.Plan.TProxy, f.Kernel.Forward = true, true
		f.RulesAhead = []string{"the IPv4 rule at priority 50 (table 220)"}
	}), "ip-rules", Warning, []string{"priority 50"}},
	{"XDP of others", set(func(f *Facts) { f.Programs = []plan.Program{{Index: 3, What: "an XDP program"}} }), "programs", Warning, []string{"ip link set dev eth1 xdp off"}},
	{"tcx of others", set(func(f *Facts) { f.Programs = []plan.Program{{Index: 3, What: "a tcx program at ingress"}} }), "programs", Note, []string{"eth1 has a tcx program"}},
	{"a flowtable, and an exclusion", set(func(f *Facts) { excluding(f); f.Flowtables = []string{"fw4 ft", "torbpf direct"} }), "flowtable", Warning, []string{"(flowtable fw4 ft)", "past all rules", "flow_offloading=0"}},
	{"a flowtable", set(func(f *Facts) { f.Flowtables = []string{"fw4 ft"} }), "flowtable", Note, []string{"fw4 ft", "nothing is excluded"}},
	{"a firewall", set(func(f *Facts) {
		f.Firewall.Delivered = []Stopped{{Chain: "inet fw in", LAN: "eth1", What: []string{"tcp4", "udp4"}, Rules: []string{"nft insert rule inet fw in …"}}}
	}), "firewall", Problem, []string{"inet fw in", "from eth1: tcp4, udp4", "nft insert rule"}},
	{"a firewall that is not understood", set(func(f *Facts) { f.Firewall.Delivered = []Stopped{{Chain: "inet fw in", LAN: "eth1", Perhaps: true}} }), "firewall", Note, []string{"cannot be told"}},
	{"iptables-legacy", set(func(f *Facts) { f.Firewall.Legacy = true }), "firewall", Note, []string{"iptables-legacy -S INPUT"}},
	{"Docker's FORWARD", set(func(f *Facts) {
		excluding(f)
		f.Firewall.Docker = true
		f.Firewall.Forwarded = []Stopped{{Chain: "ip filter FORWARD", LAN: "eth1", What: []string{"IPv4 from eth1 to eth0"}, Rules: []string{"nft insert rule ip filter FORWARD …"}}}
	}), "firewall-forward", Warning, []string{"ip filter FORWARD, as Docker sets it up", "nft insert rule"}},
	{"a forward chain that is not understood", set(func(f *Facts) {
		excluding(f)
		f.Firewall.Forwarded = []Stopped{{Chain: "ip filter FORWARD", LAN: "eth1", Perhaps: true}}
	}), "firewall-forward", Note, []string{"cannot be told"}},
	{"a closed output chain", set(func(f *Facts) { f.Advice[CheckAnswers] = []Advice{Advise("the chain drops", "nft insert rule")} }), "firewall-answers", Warning, []string{"nft insert rule"}},
	{"containers", set(func(f *Facts) { f.Host.Links = links }), "containers", Note, []string{"docker0", "torbpf attach docker0"}},
	{"containers beside this machine's own", set(func(f *Facts) { f.Host.Links = links; f.Advice[CheckContainer] = []Advice{Beside("docker0")} }), "containers", Warning, []string{"torbpf attach docker0"}},
	{"wg-quick", set(func(f *Facts) { f.Advice[CheckVPN] = WGQuick([]string{"wg0"}, true, false) }), "vpn", Warning, []string{"wg0 by another interface", "Table"}},
	{"wg-quick, and an exclusion", set(func(f *Facts) { f.Advice[CheckVPN] = WGQuick([]string{"wg0"}, false, true) }), "vpn", Warning, []string{"UDP that is excluded", "wg0.conf says Table"}},
	{"PPPoE, and a fast path", func(t *testing.T, f *Facts) {
		f.Config.FastPath = config.FastPathAuto
		f.Host.Routes[0].Index = 10
		f.plan(t)
		f.FastOff = f.Plan.InFastPath(plan.FastHost{Host: f.Host, Forwards: true})
	}, "fast-path", Note, []string{"ppp0 has no Ethernet header"}},
	{"a VLAN with a qdisc, and a fast path", func(t *testing.T, f *Facts) {
		f.Config.FastPath = config.FastPathAuto
		f.Host.Routes[0].Index = 12
		f.plan(t)
		f.FastOff = f.Plan.InFastPath(plan.FastHost{Host: f.Host, Forwards: true, Qdiscs: []plan.Qdisc{{Index: 12, Kind: "cake"}}})
	}, "fast-path", Note, []string{"dsl0.7 has a qdisc cake"}},
	{"an exclusion for a time, and a flowtable", func(t *testing.T, f *Facts) {
		f.Config.FastPath = config.FastPathFlowtable
		f.plan(t)
		f.Plan.Rules = config.DirectPrefixes(config.KindDestination, netip.MustParsePrefix("192.0.2.0/24"))
		f.Plan.Rules[0].Until = time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)
		f.FastOff = f.Plan.InFlowtable(plan.FastHost{Host: f.Host, Forwards: true})
	}, "fast-path", Note, []string{"no flowtable", "192.0.2.0/24"}},

	{"a range that is routed", refuse("eth1", func(cfg *config.Config, _ *plan.Host) { cfg.Tor.Onion4 = netip.MustParsePrefix("192.168.0.0/16") }), "onion-range", Problem, []string{"192.168.0.0/16", "--onion4"}},
	{"a port that is taken", set(func(f *Facts) { f.Advice[CheckPorts] = []Advice{Advise("tcp port 9040 is held by nginx", "stop it")} }), "ports", Problem, []string{"9040"}},
	{"a resolver", set(func(f *Facts) {
		f.Listening = []Listener{{Protocol: "udp", Addr: netip.MustParseAddrPort("192.168.50.1:53"), Process: "dnsmasq"}}
	}), "resolver", Note, []string{"dnsmasq (53/udp)", "in clear"}},
	{"DNS of this machine's own", set(func(f *Facts) { f.Status.OwnDNS = 7 }), "resolver", Note, []string{"7 packets", "attach --client"}},
	{"another router", set(func(f *Facts) {
		f.Routers = []OtherRouter{{LAN: "eth1", Addr: netip.MustParseAddr("fe80::66"), MAC: "02:00:00:00:00:66", How: "it says so"}}
	}), "other-router", Warning, []string{"fe80::66 (02:00:00:00:00:66)", "on eth1"}},
	{"no time server", set(func(f *Facts) { f.Advice[CheckTime] = []Advice{NoTimeServer} }), "time-server", Warning, []string{"apt install chrony"}},
	{"ssh is open, and there is no firewall", set(func(f *Facts) {
		f.Listening = []Listener{
			{Protocol: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:22"), Process: "sshd", From: []string{"eth0"}},
			{Protocol: "tcp", Addr: netip.MustParseAddrPort("[::]:22"), Process: "sshd", From: []string{"eth0"}},
			{Protocol: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:9040"), Process: "tor", From: []string{"eth0"}, Ours: true},
		}
	}), "open-ports", Warning, []string{"from eth0 anybody reaches sshd (22/tcp)", "nft add table inet closed", `nft insert rule inet closed input iifname "eth0" tcp dport '{ 22 }' drop`}},
	{"ssh is open through a firewall", set(func(f *Facts) {
		f.Firewall.Input = []string{"inet fw in"}
		f.Listening = []Listener{{Protocol: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:22"), Process: "sshd", From: []string{"eth0"}}}
	}), "open-ports", Warning, []string{`nft insert rule inet fw in iifname "eth0" tcp dport '{ 22 }' drop`}},
	{"perhaps it is", set(func(f *Facts) {
		f.Listening = []Listener{{Protocol: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:22"), Perhaps: []string{"eth0"}}}
	}), "open-ports", Note, []string{"somebody (22/tcp)"}},

	{"no tor", set(func(f *Facts) { f.Tor.Missing = errors.New("find the tor program: no; install it (apt install tor)") }), "tor", Problem, []string{"install it (apt install tor)"}},
	{"a tor that is unfit", set(func(f *Facts) {
		f.Tor.Missing = errors.New("use the tor at /run: add these lines:\n  DNSPort 9053\n  TransPort 9040")
	}), "tor", Problem, []string{"DNSPort 9053", "TransPort 9040"}},
	{"a tor that crashes", set(func(f *Facts) { f.Tor.Version = "Tor version 0.4.8.16." }), "tor-version", Warning, []string{"0.4.8.16", "0.4.9.9", "--only-upgrade tor"}},
	{"a tor without a version", set(func(f *Facts) { f.Tor.Version = "Tor version X." }), "tor-version", Note, []string{"X"}},
	{"tor hangs", set(func(f *Facts) { f.Status.Alive = false; f.Status.Summary = "no reply" }), "tor-ready", Problem, []string{"no reply"}},
	{"tor is not ready", set(func(f *Facts) { f.Status.Ready = false; f.Status.Percent = 10; f.Status.Summary = "Connected" }), "tor-ready", Problem, []string{"10% (Connected)"}},
	{"the clock is behind the program", set(func(f *Facts) { f.Tor.Built = now.Add(time.Hour) }), "clock", Problem, []string{"this program is of", "date -u -s"}},
	{"the clock is behind the consensus", set(func(f *Facts) { f.Tor.ValidAfter = now.Add(time.Minute) }), "clock", Problem, []string{"is behind"}},
	{"the clock is ahead", set(func(f *Facts) { f.Tor.ValidUntil = now.Add(-25 * time.Hour) }), "clock", Warning, []string{"is ahead"}},
	{"tor finds the clock wrong", set(func(f *Facts) { f.Tor.Skew = "Clock skew -86400" }), "clock", Problem, []string{"Clock skew -86400"}},

	{"a layer is gone", set(func(f *Facts) { f.Status.Problems = []string{"no guard dns"} }), "layers", Problem, []string{"no guard dns", "torbpf attach"}},
	{"an alarm", set(func(f *Facts) { f.Status.Stopped = 3 }), "alarms", Problem, []string{"3 packets", "torbpf check"}},
	{"a wide rule", set(func(f *Facts) { f.Advice[CheckRules] = []Advice{Advise("port 443/tcp is of all destinations")} }), "rules", Warning, []string{"443/tcp"}},
	{"nothing starts it at boot", set(func(f *Facts) { f.Boot.Enabled = false }), "boot", Warning, []string{"a reboot removes all of this", "torbpf enable"}},
	{"the service is not installed", set(func(f *Facts) { f.Boot = Boot{Managed: true} }), "boot", Warning, []string{"not installed", "sudo make install", "torbpf enable"}},
	{"nobody known starts it", set(func(f *Facts) { f.Boot = Boot{} }), "boot", Note, []string{"cannot be told", "torbpf enable"}},
	{"the file does not name it", set(func(f *Facts) { f.Boot.Missing = []string{"eth2", "this machine itself"} }), "boot", Warning, []string{config.DefaultFile + " does not name: eth2, this machine itself", "torbpf enable --save"}},
	{"a page without a password", set(func(f *Facts) { f.Advice[CheckPage] = []Advice{Advise("nobody can sign in", "torbpf page password")} }), "page", Warning, []string{"page password"}},
	{"no time for this machine", set(func(f *Facts) {
		f.Advice[CheckClient] = []Advice{Advise("no answers", "torbpf exclude add --user chrony")}
	}), "client", Warning, []string{"--user chrony"}},
}

// TestEachFaultIsFoundAndNoOther: on a sound host every check is ok or about nothing; with one
// fault that check alone is not, and says what to type. All checks are met by one.
func TestEachFaultIsFoundAndNoOther(t *testing.T) {
	if r := Examine(sound(t)); r.Verdict != OK || !r.Sound() {
		t.Fatalf("a sound host is %s: %+v", r.Verdict, r.Checks)
	}
	unmet := make(map[string]bool)
	for _, c := range checks {
		unmet[c.id] = true
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			facts := sound(t)
			f.do(t, facts)
			r := Examine(facts)
			delete(unmet, f.id)
			for _, c := range r.Checks {
				if want := c.ID == f.id; want != (c.Verdict != OK && c.Verdict != NotApplicable) {
					t.Errorf("%s is %s: %+v", c.ID, c.Verdict, c.Findings)
				}
				if c.ID != f.id {
					continue
				}
				text := fmt.Sprint(c.Findings)
				if c.Verdict != f.verdict || r.Verdict != f.verdict {
					t.Errorf("%s is %s, the report %s: %s", c.ID, c.Verdict, r.Verdict, text)
				}
				for _, says := range f.says {
					if !strings.Contains(text, says) {
						t.Errorf("%s does not say %q: %s", c.ID, says, text)
					}
				}
			}
			if r.Sound() != (f.verdict == Note) {
				t.Errorf("a report that is %s is sound: %v", r.Verdict, r.Sound())
			}
		})
	}
	for id := range unmet {
		t.Errorf("no fault is found by %s", id)
	}
}

// TestWhatCouldNotBeLookedAtIsNotSound: nor is it a fault; it is said what to type.
func TestWhatCouldNotBeLookedAtIsNotSound(t *testing.T) {
	f := sound(t)
	f.Root = false
	f.Unread[CheckFirewall] = errors.New("this needs root")
	r := Examine(f)
	i := slices.IndexFunc(r.Checks, func(c Result) bool { return c.ID == CheckFirewall })
	if r.Verdict != Unknown || r.Sound() || r.Checks[i].Verdict != Unknown || !slices.Equal(r.Checks[i].Findings[0].Fix, []string{"sudo torbpf doctor"}) {
		t.Errorf("%s, %+v", r.Verdict, r.Checks[i])
	}
}

// TestBeforeAttachNothingOfItIsJudged: and nothing is made up of what could not be planned.
func TestBeforeAttachNothingOfItIsJudged(t *testing.T) {
	f := sound(t)
	f.Attached, f.Plan, f.Status = false, nil, Status{}
	for _, c := range Examine(f).Checks {
		if c.Verdict != OK && c.Verdict != NotApplicable {
			t.Errorf("%s is %s: %+v", c.ID, c.Verdict, c.Findings)
		}
	}
}

// TestAdviceIsOneLineForAttach: what attach prints is the reason and what to type.
func TestAdviceIsOneLineForAttach(t *testing.T) {
	for want, a := range map[string]Advice{
		"it is so":                   Advise("it is so"),
		"it is so: do this; or this": Advise("it is so", "do this", "or this"),
		"port 9 is held: stop it":    Advised(errors.New("port 9 is held: stop it")),
	} {
		if a.String() != want {
			t.Errorf("%q, want %q", a, want)
		}
	}
}
