package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// byTProxy has TCP handed to tor's socket.
var byTProxy = []string{"--tcp-mode", "tproxy"}

// TestMainJobWithoutNAT is TestMainJob with TCP handed to tor's socket: of what goes to Tor
// conntrack knows DNS alone, and a port forward goes on.
func TestMainJobWithoutNAT(t *testing.T) {
	lab := torLab(t)
	visitor := inboundFlow(t, lab)
	attach(t, lab, append([]string{lan, lan2}, byTProxy...)...)
	later := inboundFlow(t, lab)
	if err := errors.Join(visitor.ask(), later.ask()); err != nil {
		t.Error(err)
	}
	capture := captureWAN(t, lab)

	clients := []*testnet.Node{lab.Client1, lab.Client2}
	var checks []func() error
	for _, n := range clients {
		checks = append(checks, fetches(lab, n)...)
		checks = append(checks, lookups(n)...)
	}
	inParallel(t, append(checks, func() error {
		for _, n := range clients {
			sendStrays(t, n)
		}
		return nil
	}))
	for _, n := range clients {
		checkOnionV6(t, lab, n)
	}
	held := openFlow(t, lab.Client1, "tcp", at(testnet.Web4, testnet.PortEcho))
	held6 := openFlow(t, lab.Client1, "tcp", at(testnet.Web6, testnet.PortEcho))
	if err := errors.Join(held.echo(), held6.echo()); err != nil {
		t.Error(err)
	}
	checkUntracked(t, lab)
	checkServersSawExitsOnly(t, lab)
	checkNoLeaks(t, capture)
	if err := errors.Join(visitor.ask(), later.ask()); err != nil {
		t.Error(err)
	}
	if r := mustTorbpf(t, lab, "explain", "--from", "192.168.50.11", "--to", testnet.Web4.String()); !strings.Contains(r.stdout, "handed to tor's socket, 127.0.0.1:9040") {
		t.Errorf("explain does not tell how TCP gets to tor: %v", r)
	}
	if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "tproxy") {
		t.Errorf("status does not tell how TCP gets to tor: %v", r)
	}
}

// ownConnection is one that the router itself has begun, as tests in client mode leave.
var ownConnection = regexp.MustCompile(`src=(` + regexp.QuoteMeta(testnet.WANRouter4.String()) + `|` + regexp.QuoteMeta(testnet.WANRouter6.String()) + `) dst=(` +
	regexp.QuoteMeta(testnet.Web4.String()) + `|` + regexp.QuoteMeta(testnet.Web6.String()) + `) sport`)

// checkUntracked looks for connections of devices to the internet in conntrack.
func checkUntracked(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(run(t, lab.Router, "conntrack", "-L", "-p", "tcp", "-f", family)) {
			for _, site := range []netip.Addr{testnet.Web4, testnet.Web6} {
				if ownConnection.MatchString(line) {
					continue
				}
				if strings.Contains(line, "dst="+site.String()+" ") {
					t.Errorf("conntrack knows %s", line)
				}
			}
		}
	}
}

// forgetConnections ends what devices have left of connections of tests before: they would go on
// closing them while nothing keeps them in.
func forgetConnections(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		run(t, n, "ss", "--kill", "--tcp", "state", "connected")
	}
}

// TestSwitchingHowTCPGetsToTor switches from one to the other and back, by attach: what was
// redirected goes on, new connections go the new way, and nothing gets out meanwhile.
func TestSwitchingHowTCPGetsToTor(t *testing.T) {
	lab := torLab(t)
	forgetConnections(t, lab)
	capture := captureWAN(t, lab)
	before := netState(t, lab)
	attach(t, lab, lan)
	n := lab.Client1
	redirected := openFlow(t, n, "tcp", at(testnet.Web4, testnet.PortEcho))
	attach(t, lab, byTProxy...)
	if err := redirected.echo(); err != nil {
		t.Errorf("a connection that was redirected: %v", err)
	}
	checkByTor(t, lab, n, testnet.Web4)
	checkByTor(t, lab, n, testnet.Web6)
	handed := openFlow(t, n, "tcp", at(testnet.Web4, testnet.PortEcho))
	if err := handed.echo(); err != nil {
		t.Error(err)
	}
	attach(t, lab, "--tcp-mode", "redirect")
	if err := handed.echo(); err == nil {
		t.Error("a connection that was handed over goes on where TCP is redirected")
	}
	checkByTor(t, lab, n, testnet.Web4)
	checkByTor(t, lab, n, testnet.Web6)
	if left := run(t, lab.Router, "ip", "route", "show", "table", "all", "proto", "84"); left != "" {
		t.Errorf("routes are left: %s", left)
	}
	path := filepath.Join(t.TempDir(), "torbpf.toml")
	file := fmt.Sprintf("interfaces = [%q]\n[tor]\ntcp_mode = \"tproxy\"\ntorrc = %q\n", lan, lab.ClientTorrcFile())
	if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := mustTorbpf(t, lab, "plan", "--config", path); !strings.Contains(r.stdout, fmt.Sprintf("lookup %d", plan.RouteTable)) {
		t.Errorf("plan shows no rule that leads to tor's socket: %v", r)
	}
	mustTorbpf(t, lab, "apply", "--config", path)
	checkByTor(t, lab, n, testnet.Web4)
	kill(t, unix.SIGKILL, pidsNamed(t, lab, "tor")...)
	eventually(t, patience, "the end of tor", func() error {
		if left := pidsNamed(t, lab, "tor"); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	eventually(t, patience, "the end of tor's socket", func() error { return refusedAtOnce(n, at(testnet.Web4, testnet.PortEcho)) })
	if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "tor's socket at 127.0.0.1:9040 is not known to the programs") {
		t.Errorf("status without tor: %v", r)
	}
	attach(t, lab)
	checkByTor(t, lab, n, testnet.Web6)
	checkNoLeaks(t, capture)
	mustTorbpf(t, lab, "detach", "--all")
	if after := netState(t, lab); after != before {
		t.Errorf("detach leaves something; before:\n%s\nafter:\n%s", before, after)
	}
}

// TestHandedConnectionsNeverGoDirect: one goes on through Tor when its destination is excluded, and ends
// when its LAN leaves.
func TestHandedConnectionsNeverGoDirect(t *testing.T) {
	lab := torLab(t)
	forgetConnections(t, lab)
	attach(t, lab, append([]string{lan, lan2}, byTProxy...)...)
	// The kernel would find the socket before it asks for a route, and nobody else had to.
	if err := lab.Router.Sysctl("net.ipv4.ip_early_demux=0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Router.Sysctl("net.ipv4.ip_early_demux=1"); err != nil {
			t.Error(err)
		}
	})
	capture := captureWAN(t, lab)
	flows := []*flow{
		openFlow(t, lab.Client1, "tcp", at(testnet.Web4, testnet.PortEcho)), openFlow(t, lab.Client1, "tcp", at(testnet.Web6, testnet.PortEcho)),
	}
	mustTorbpf(t, lab, "exclude", "add", testnet.Web4.String(), testnet.Web6.String())
	for _, f := range flows {
		if err := f.echo(); err != nil {
			t.Errorf("%s, whose destination is excluded since: %v", f.name, err)
		}
	}
	mustTorbpf(t, lab, "detach", lan)
	for _, f := range flows {
		if err := f.echo(); err == nil {
			t.Errorf("%s goes on without its LAN", f.name)
		}
	}
	checkNoLeaks(t, capture)
}

// TestWhatTorHasClosedEndsWithTheMode: a device is gone while tor, which has closed their sockets, still has
// something to send in connections of its. Nobody has a descriptor of those; the kernel would tell the site.
func TestWhatTorHasClosedEndsWithTheMode(t *testing.T) {
	for name, end := range map[string][]string{
		"redirect": {"attach", lan, "--tcp-mode", "redirect"},
		"one LAN":  {"detach", lan},
		"detach":   {"detach", "--all"},
	} {
		t.Run(name, func(t *testing.T) {
			lab := torLab(t)
			forgetConnections(t, lab)
			attach(t, lab, append([]string{lan, lan2}, byTProxy...)...)
			capture := captureWAN(t, lab)
			goneWhileAnswered(t, lab)
			if name == "redirect" {
				attach(t, lab, end[1:]...)
			} else {
				mustTorbpf(t, lab, end...)
			}
			if left := toSites(t, lab.Router); left != "" {
				t.Errorf("connections are left:\n%s", left)
			}
			checkNoLeaks(t, capture)
		})
	}
}

// goneWhileAnswered has a device ask for pages and be gone before it hears the answers, which tor has
// got and closed its sockets after.
func goneWhileAnswered(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	n, sites := lab.Client1, []netip.Addr{testnet.Web4, testnet.Web6}
	var conns []net.Conn
	for _, site := range sites {
		conn, err := n.Dial(t.Context(), "tcp", at(site, testnet.PortHTTP).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
	}
	rulesOf(t, n, "netdev", `chain deaf { type filter hook ingress device "eth0" priority 0; policy drop; }`)
	for _, conn := range conns {
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: site\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, torPatience, "connections that tor has closed with something left to send", func() error {
		if left := toSites(t, lab.Router); strings.Count(left, "FIN-WAIT-1") != len(sites) {
			return errors.New(left)
		}
		return nil
	})
	rulesOf(t, n, "inet", `chain mute { type filter hook output priority 0; policy drop; }`)
	run(t, n, "ss", "--kill", "--tcp", "state", "connected")
}

// toSites lists the TCP sockets of a machine that have a site's address for theirs.
func toSites(t *testing.T, n *testnet.Node) string {
	t.Helper()
	return run(t, n, "ss", "-Htan", fmt.Sprintf("( src %s or src [%s] )", testnet.Web4, testnet.Web6))
}

// netState is what routing of a router looks like.
func netState(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"ip", "-4", "rule"}, {"ip", "-6", "rule"}, {"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"}, {"nft", "list", "tables"},
	} {
		out, err := lab.Router.Run(context.Background(), args[0], args[1:]...)
		fmt.Fprintf(&b, "%v: %v\n%s", args, err, out)
	}
	return b.String()
}
