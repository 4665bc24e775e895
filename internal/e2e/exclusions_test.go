package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// Prefixes around lab.Other, which is what tests exclude.
const (
	other4 = "51.21.0.0/16"
	other6 = "2a0e:21::/32"
)

// TestExclusions: what is excluded goes as if torbpf were not there, with the
// router's own NAT; everything else stays Tor's; and what is excluded no longer
// ends.
func TestExclusions(t *testing.T) {
	lab := torLab(t)
	serveFlows(t, lab, testnet.Other4, testnet.Other6)
	attach(t, lab, lan)
	t.Run("destinations", func(t *testing.T) { checkDestinations(t, lab) })
	t.Run("sources", func(t *testing.T) { checkSources(t, lab) })
	t.Run("marks", func(t *testing.T) { checkMarks(t, lab) })
	if r := runTorbpf(t, lab, "status"); r.code != 0 {
		t.Errorf("status: %v", r)
	}
}

func checkDestinations(t *testing.T, lab *testnet.Lab) {
	forget(lab)
	mustTorbpf(t, lab, "exclude", "add", other4, other6)
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		checkDirect(t, n, testnet.Other4)
		checkDirect(t, n, testnet.Other6)
		checkEcho(t, n, testnet.Other4, testnet.Other6)
		checkByTor(t, lab, n, testnet.Web4)
		checkByTor(t, lab, n, testnet.Web6)
		checkNoEcho(t, n, testnet.Web4, testnet.Web6)
	}
	pings := []string{"-q", "-c", "1", "-W", "2"}
	for _, addr := range []string{testnet.Other4.String(), testnet.Other6.String()} {
		run(t, lab.Client1, "ping", append(pings, addr)...)
	}
	// The name is Tor's even where the address is not.
	if err := lookup(lab.Client1, lab.Client1.Resolver, "other."+testnet.Zone, "A", "udp", testnet.Other4.String()); err != nil {
		t.Error(err)
	}
	if err := lookup(lab.Client1, at(testnet.Other4, testnet.PortDNS), "other."+testnet.Zone, "AAAA", "tcp", testnet.Other6.String()); err != nil {
		t.Error(err)
	}
	checkResolversSawExitsOnly(t, lab)
	checkRemovalCuts(t, lab, lab.Client1, "exclude", "del", other4, other6)
}

// checkResolversSawExitsOnly looks at who has asked since forget.
func checkResolversSawExitsOnly(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	for _, q := range lab.DNS.Queries() {
		if !lab.Tor.IsExit(q.Source.Addr()) {
			t.Errorf("the ISP's resolver was asked for %s %s by %v", q.Name, q.Type, q.Source)
		}
	}
	for _, q := range lab.RouterDNS.Queries() {
		t.Errorf("the router's own resolver was asked for %s %s by %v", q.Name, q.Type, q.Source)
	}
}

// checkEcho talks UDP, on the ports of echo and of QUIC.
func checkEcho(t testing.TB, n *testnet.Node, servers ...netip.Addr) {
	t.Helper()
	for _, s := range servers {
		for _, port := range []uint16{testnet.PortEcho, testnet.PortHTTPS} {
			if err := testnet.Echo(n, "udp", at(s, port), patience); err != nil {
				t.Error(err)
			}
		}
	}
}

// checkNoEcho wants UDP refused at once.
func checkNoEcho(t testing.TB, n *testnet.Node, servers ...netip.Addr) {
	t.Helper()
	for _, s := range servers {
		err := testnet.Echo(n, "udp", at(s, testnet.PortHTTPS), patience)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("udp from %s to %v: %v, want it refused at once", n.Name, s, err)
		}
	}
}

// checkUnanswered wants no answer to UDP. With exempt marks only the user's rules
// can say what is refused, and then the kernel answers when it feels like it.
func checkUnanswered(t testing.TB, n *testnet.Node, servers ...netip.Addr) {
	t.Helper()
	for _, s := range servers {
		if err := testnet.Echo(n, "udp", at(s, testnet.PortHTTPS), hush); err == nil {
			t.Errorf("udp from %s to %v was answered", n.Name, s)
		}
	}
}

// checkRemovalCuts opens flows of n to lab.Other that are direct, runs a command
// that takes the exclusion away, and wants them ended without a packet more.
func checkRemovalCuts(t *testing.T, lab *testnet.Lab, n *testnet.Node, command ...string) {
	t.Helper()
	var flows []*flow
	for _, server := range []netip.Addr{testnet.Other4, testnet.Other6} {
		flows = append(flows,
			openFlow(t, n, "tcp", at(server, portFlows)), openFlow(t, n, "udp", at(server, testnet.PortEcho)))
	}
	download := startDownload(t, n, largePage(testnet.Other4))
	mustTorbpf(t, lab, command...)
	capture := captureWAN(t, lab)
	var checks []func() error
	for _, f := range flows {
		checks = append(checks, f.ends)
	}
	checks = append(checks, func() error { return cutOff(download) })
	inParallel(t, checks)
	checkByTor(t, lab, n, testnet.Other4)
	checkByTor(t, lab, n, testnet.Other6)
	checkNoEcho(t, n, testnet.Other4, testnet.Other6)
	checkNoLeaks(t, capture)
}

func checkSources(t *testing.T, lab *testnet.Lab) {
	forget(lab)
	n := lab.Client2
	mustTorbpf(t, lab, "exclude", "add", "--source", n.IPv4.String(), n.IPv6.String())
	checkDirect(t, n, testnet.Web4)
	checkDirect(t, n, testnet.Web6)
	checkEcho(t, n, testnet.Web4, testnet.Web6)
	// A device outside Tor asks the router as before, which asks the ISP.
	name := "direct." + testnet.Zone
	for _, proto := range []string{"udp", "tcp"} {
		if err := lookup(n, n.Resolver, name, "A", proto, testnet.Web4.String()); err != nil {
			t.Error(err)
		}
	}
	if len(lab.RouterDNS.QueriesFor(name)) != 2 {
		t.Errorf("the router's resolver was asked %v", lab.RouterDNS.Queries())
	}
	if _, err := testnet.HTTPGet(n, "http://"+lab.Tor.Onion+"/", patience); err == nil {
		t.Error("a device outside Tor reached the onion")
	}
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	checkNoEcho(t, lab.Client1, testnet.Web4, testnet.Web6)
	checkRemovalCuts(t, lab, n, "exclude", "del", "--source", n.IPv4.String(), n.IPv6.String())
}

// checkMarks: the user's rules mark some of a device's traffic, the way that
// policy routing does: some bits of the mark, or the whole of it.
func checkMarks(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	t.Run("masked", func(t *testing.T) {
		mustTorbpf(t, lab, "exclude", "add", "--mark", "0x200/0xff00")
		markOther(t, lab, "meta mark set meta mark and 0xffff00ff or 0x200")
		checkMarked(t, lab)
		checkRemovalCuts(t, lab, n, "exclude", "del", "--mark", "0x200/0xff00")
	})
	t.Run("whole", func(t *testing.T) {
		mustTorbpf(t, lab, "exclude", "add", "--mark", "0x100")
		t.Run("marked", func(t *testing.T) {
			markOther(t, lab, "meta mark set 0x100")
			checkMarked(t, lab)
			// Rules that wipe torbpf's bits and mean nothing to it any more: what
			// it cannot judge is stopped.
			flows := []*flow{
				openFlow(t, n, "tcp", at(testnet.Other4, portFlows)), openFlow(t, n, "udp", at(testnet.Other6, testnet.PortEcho)),
			}
			mustTorbpf(t, lab, "exclude", "del", "--mark", "0x100")
			capture := captureWAN(t, lab)
			for _, f := range flows {
				if err := f.echo(); err == nil {
					t.Errorf("%s is still answered", f.name)
				}
			}
			for _, server := range []netip.Addr{testnet.Other4, testnet.Other6} {
				if err := testnet.Echo(n, "tcp", at(server, testnet.PortEcho), hush); err == nil {
					t.Errorf("%v was reached", server)
				}
			}
			checkNoLeaks(t, capture)
		})
		checkByTor(t, lab, n, testnet.Other4)
		checkByTor(t, lab, n, testnet.Other6)
	})
}

// markOther has the router's owner mark what client1 sends to lab.Other.
func markOther(t testing.TB, lab *testnet.Lab, statement string) {
	t.Helper()
	var rules []string
	for _, addr := range []string{"ip daddr " + testnet.Other4.String(), "ip6 daddr " + testnet.Other6.String()} {
		rules = append(rules, fmt.Sprintf("iifname %q ether saddr %s %s %s", lan, testnet.MACClient1, addr, statement))
	}
	userRules(t, lab, "inet", fmt.Sprintf("chain marks { type filter hook prerouting priority -150;\n%s\n}", strings.Join(rules, "\n")))
}

// checkMarked: what bears the mark is direct, and nothing else is.
func checkMarked(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	checkDirect(t, lab.Client1, testnet.Other4)
	checkDirect(t, lab.Client1, testnet.Other6)
	checkEcho(t, lab.Client1, testnet.Other4, testnet.Other6)
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	checkUnanswered(t, lab.Client1, testnet.Web4, testnet.Web6)
	checkByTor(t, lab, lab.Client2, testnet.Other4)
	checkUnanswered(t, lab.Client2, testnet.Other4, testnet.Other6)
}

// TestExcludeTellsWhatItDid: the words for people, the JSON for programs.
func TestExcludeTellsWhatItDid(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, step := range []struct {
		args string
		code int
		want string
	}{
		{"list", 0, "nothing is excluded"},
		{"add 51.21.0.0/24 2a0e:21::80", 0, "added destination 51.21.0.0/24\nadded destination 2a0e:21::80/128"},
		{"add 51.21.0.80", 0, "destination 51.21.0.80/32 is excluded already, covered by 51.21.0.0/24"},
		{"add 51.21.0.0/24", 0, "destination 51.21.0.0/24 is excluded already"},
		{"add 51.21.0.0/16", 0, "added destination 51.21.0.0/16, which absorbed 51.21.0.0/24"},
		{"add --source 192.168.50.12", 0, "added source 192.168.50.12/32"},
		{"add --mark 0x100", 0, "added mark 0x100"},
		{"add --port 22/tcp", 0, "added port 22/tcp"},
		{"add --device 02:00:00:00:00:77 --policy block", 0, "added device 02:00:00:00:00:77 (block)"},
		{"add --interface wg0", 0, "added interface wg0"},
		{"del --interface wg0", 0, "removed interface wg0"},
		{"add --interface eth1", 2, "eth1 is to be torified"},
		{"add --port 22", 2, "22/tcp"},
		{"add --device 01:00:5e:00:00:01", 2, "group"},
		{"add --policy block 51.22.0.0/16", 2, "there is direct, tor"},
		{"add --policy never 51.22.0.0/16", 2, "there is direct, tor"},
		{"add --for 0s 51.22.0.0/16", 2, "over before it begins"},
		{"add --for soon 51.22.0.0/16", 2, "soon"},
		{"add --source --mark 0x1", 2, "--source and --mark are about different things"},
		{"add 51.21.9.0/24 --policy tor --comment not-this-part", 0, "added destination 51.21.9.0/24 (tor)"},
		{"del 51.21.0.0/24", 1, "nothing was changed: destination 51.21.0.0/24 is not in the list, but 51.21.0.0/16 covers it"},
		{"del 51.22.0.0/16 2a0e:21::80", 1, "nothing was changed: destination 51.22.0.0/16 is not in the list: nearest are 51.21.0.0/16"},
		{"del --source 192.168.50.13", 1, "nearest are 192.168.50.12/32"},
		{"del 2a0e:21::80", 0, "removed destination 2a0e:21::80/128"},
		{"add 51.21.0.0/33", 2, "51.21.0.0/33"},
		{"add 0.0.0.0/0", 2, "--force"},
		{"add --mark 0x01000000", 2, "take free ones with --mark-shift"},
		{"add", 2, "see `torbpf exclude add --help`"},
		{"", 2, "add, del or list?"},
	} {
		args := append([]string{"exclude"}, strings.Fields(step.args)...)
		r := runTorbpf(t, lab, args...)
		if out := r.stdout + r.stderr; r.code != step.code || !strings.Contains(out, step.want) {
			t.Errorf("%s: %v\nwant exit code %d and %q", strings.Join(args, " "), r, step.code, step.want)
		}
	}
	checkJSON(t, lab, []string{"exclude", "list", "--json"}, `{"schema":2,"lists":[],"rules":
		[{"kind":"destination","match":"51.21.0.0/16","policy":"direct","origin":"exclude add","runtime":true},
		{"kind":"destination","match":"51.21.9.0/24","policy":"tor","comment":"not-this-part","origin":"exclude add","runtime":true},
		{"kind":"port","match":"22/tcp","policy":"direct","origin":"exclude add","runtime":true},
		{"kind":"source","match":"192.168.50.12/32","policy":"direct","origin":"exclude add","runtime":true},
		{"kind":"device","match":"02:00:00:00:00:77","policy":"block","origin":"exclude add","runtime":true},
		{"kind":"mark","match":"0x100","policy":"direct","origin":"exclude add","runtime":true}]}`)
	checkJSON(t, lab, []string{"exclude", "add", "--json", "51.21.7.0/24"}, `{"schema":1,"changes":
		[{"kind":"destination","entry":"51.21.7.0/24","outcome":"covered"}]}`)
	checkJSON(t, lab, []string{"exclude", "del", "--json", "--mark", "0x100"}, `{"schema":1,"changes":
		[{"kind":"mark","entry":"0x100","outcome":"removed"}]}`)
	for _, args := range [][]string{{"0.0.0.0/0"}, {"--interface", wan}} {
		r := mustTorbpf(t, lab, append([]string{"exclude", "add", "--force"}, args...)...)
		if status := mustTorbpf(t, lab, "status"); !strings.Contains(r.stderr, "hardly anything is Tor's") || !strings.Contains(status.stdout, "hardly anything is Tor's") {
			t.Errorf("with everything excluded: %v\nstatus: %v", r, status)
		}
		mustTorbpf(t, lab, append([]string{"exclude", "del"}, args...)...)
	}
}

// checkJSON compares what a command prints with what it should, apart from space.
func checkJSON(t testing.TB, lab *testnet.Lab, args []string, want string) {
	t.Helper()
	var got, wanted any
	out := mustTorbpf(t, lab, args...).stdout
	err := errors.Join(json.NewDecoder(strings.NewReader(out)).Decode(&got), json.Unmarshal([]byte(want), &wanted))
	if err != nil {
		t.Errorf("%v: %v: %s", args, err, out)
		return
	}
	a, _ := json.Marshal(got) // both have just been read
	b, _ := json.Marshal(wanted)
	if string(a) != string(b) {
		t.Errorf("%v printed %s\nwant %s", args, a, b)
	}
}

// TestForwardingIsAskedFor: on a router that does not forward, Tor works and
// exclusions do not; torbpf says so, changes it only when told to, and detach
// puts it back.
func TestForwardingIsAskedFor(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	off := []string{"net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"}
	if err := lab.Router.Sysctl(off...); err != nil {
		t.Fatal(err)
	}
	before := sysctls(t, lab)
	const warning = "does not forward IPv4 (net.ipv4.ip_forward=0) and IPv6 (net.ipv6.conf.all.forwarding=0)"
	r := attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	if strings.Contains(r.stderr, "forward") {
		t.Errorf("attach without exclusions: %v", r)
	}
	if r := mustTorbpf(t, lab, "exclude", "add", other4, other6); !strings.Contains(r.stderr, warning) {
		t.Errorf("exclude add: %v\nwant the warning %q", r, warning)
	}
	if r := mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait")...); !strings.Contains(r.stderr, warning) {
		t.Errorf("attach again: %v\nwant the warning %q", r, warning)
	}
	compare(t, "sysctls, while nobody asked to change them", before, sysctls(t, lab))

	r = mustTorbpf(t, lab, "exclude", "add", "--enable-forwarding", other4, other6)
	if strings.Contains(r.stderr, "warning") {
		t.Errorf("exclude add --enable-forwarding: %v", r)
	}
	checkDirect(t, lab.Client1, testnet.Other4)
	checkDirect(t, lab.Client1, testnet.Other6)
	mustTorbpf(t, lab, "detach", "--all")
	compare(t, "sysctls after detach", before, sysctls(t, lab))
}
