package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// TestRules: the rules that are neither prefix nor mark, and those that end.
func TestRules(t *testing.T) {
	lab := torLab(t)
	serveFlows(t, lab, testnet.Other4, testnet.Other6)
	attach(t, lab, lan)
	t.Run("ports", func(t *testing.T) { checkPorts(t, lab) })
	t.Run("devices", func(t *testing.T) { checkDevices(t, lab) })
	t.Run("interfaces", func(t *testing.T) { checkExits(t, lab) })
	t.Run("a part taken back", func(t *testing.T) { checkCarved(t, lab) })
	t.Run("for a while", func(t *testing.T) { checkLife(t, lab) })
	if r := runTorbpf(t, lab, "status"); r.code != 0 {
		t.Errorf("status: %v", r)
	}
}

// checkPorts: one port of everybody, another of some, and pings.
func checkPorts(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	mustTorbpf(t, lab, "exclude", "add", "--port", "7/udp", "80/tcp@"+other4, "80/tcp@"+other6, "icmp@"+other4)
	checkDirect(t, n, testnet.Other4)
	checkDirect(t, n, testnet.Other6)
	checkByTor(t, lab, n, testnet.Web4)
	for _, server := range []netip.Addr{testnet.Other4, testnet.Web6} {
		if err := testnet.Echo(n, "udp", at(server, testnet.PortEcho), patience); err != nil {
			t.Error(err)
		}
	}
	checkNoEcho(t, n, testnet.Other4, testnet.Web6) // port 443
	run(t, n, "ping", "-q", "-c", "1", "-W", "2", testnet.Other4.String())
	if _, err := n.Run(t.Context(), "ping", "-q", "-c", "1", "-W", "1", testnet.Web4.String()); err == nil {
		t.Error("a ping that no rule is about was answered")
	}
	mustTorbpf(t, lab, "exclude", "del", "--port", "7/udp", "80/tcp@"+other4, "80/tcp@"+other6, "icmp@"+other4)
	checkByTor(t, lab, n, testnet.Other4)
	checkNoEcho(t, n, testnet.Other4, testnet.Other6)
}

// checkDevices: by hardware address, with the device's DNS; the other client has it not.
func checkDevices(t *testing.T, lab *testnet.Lab) {
	forget(lab)
	n := lab.Client2
	mustTorbpf(t, lab, "exclude", "add", "--device", testnet.MACClient2)
	checkDirect(t, n, testnet.Other4)
	checkDirect(t, n, testnet.Other6)
	checkEcho(t, n, testnet.Web4, testnet.Web6)
	for _, proto := range []string{"udp", "tcp"} {
		if err := lookup(n, n.Resolver, "device."+testnet.Zone, "A", proto, testnet.Web4.String()); err != nil {
			t.Error(err)
		}
	}
	if len(lab.RouterDNS.QueriesFor("device."+testnet.Zone)) != 2 {
		t.Errorf("the router's resolver was asked %v", lab.RouterDNS.Queries())
	}
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	// Another change of the policy leaves its connections alone.
	f := openFlow(t, n, "tcp", at(testnet.Other4, portFlows))
	mustTorbpf(t, lab, "exclude", "add", "--port", "9/tcp")
	if err := f.echo(); err != nil {
		t.Errorf("an excluded device's connection ended with another change: %v", err)
	}
	mustTorbpf(t, lab, "exclude", "del", "--port", "9/tcp")
	checkRemovalCuts(t, lab, n, "exclude", "del", "--device", testnet.MACClient2)

	mustTorbpf(t, lab, "exclude", "add", "--policy", "block", "--device", testnet.MACClient2)
	checkNoEcho(t, n, testnet.Web4)
	if err := byTor(lab, n, testnet.Web4); err == nil {
		t.Error("a blocked device reached the web")
	}
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	mustTorbpf(t, lab, "exclude", "del", "--device", testnet.MACClient2)
	checkByTor(t, lab, n, testnet.Web4)
}

// checkExits: what is routed to a second way out takes it, and the rest is Tor's; when
// the route has gone, all of it is.
func checkExits(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	err := lab.Link(testnet.Iface{Node: lab.ISP, Name: "wg-far", Addrs: []string{"10.66.0.1/24", "fd66::1/64"}},
		testnet.Iface{Node: lab.Router, Name: "wg0", Addrs: []string{"10.66.0.2/24", "fd66::2/64"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := lab.Router.Run(context.Background(), "ip", "link", "del", "wg0"); err != nil {
			t.Error(err)
		}
	})
	userRules(t, lab, "inet", `chain masks { type nat hook postrouting priority 50; oifname "wg0" masquerade; }`)
	run(t, lab.Router, "ip", "route", "add", other4, "via", "10.66.0.1", "dev", "wg0")
	checkByTor(t, lab, n, testnet.Other4) // nobody has said that it may
	mustTorbpf(t, lab, "exclude", "add", "--interface", "wg0")
	viaVPN := func(a netip.Addr) bool { return a == netip.MustParseAddr("10.66.0.2") }
	if err := fetch(n, page(testnet.Other4), viaVPN); err != nil {
		t.Error(err)
	}
	checkEcho(t, n, testnet.Other4)
	checkByTor(t, lab, n, testnet.Web4)
	checkByTor(t, lab, n, testnet.Other6)
	run(t, lab.Router, "ip", "-6", "route", "add", other6, "via", "fd66::1", "dev", "wg0")
	checkEcho(t, n, testnet.Other6)
	run(t, lab.Router, "ip", "-6", "route", "del", other6)
	checkNoEcho(t, n, testnet.Other6)

	f := openFlow(t, n, "tcp", at(testnet.Other4, portFlows))
	mustTorbpf(t, lab, "exclude", "add", "--port", "9/tcp")
	if err := f.echo(); err != nil {
		t.Errorf("a connection by the VPN ended with another change: %v", err)
	}
	mustTorbpf(t, lab, "exclude", "del", "--port", "9/tcp")
	capture := captureWAN(t, lab)
	run(t, lab.Router, "ip", "route", "del", other4)
	if err := f.echo(); err == nil {
		t.Error("a connection by the VPN goes on by the WAN")
	}
	checkByTor(t, lab, n, testnet.Other4)
	checkNoEcho(t, n, testnet.Other4)
	checkNoLeaks(t, capture)
	mustTorbpf(t, lab, "exclude", "del", "--interface", "wg0")
	if r := runTorbpf(t, lab, "exclude", "add", "--interface", wan); r.code == 0 || !strings.Contains(r.stderr, "--force") {
		t.Errorf("the way to everything was excluded: %v", r)
	}
}

func checkCarved(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	mustTorbpf(t, lab, "exclude", "add", other4)
	mustTorbpf(t, lab, "exclude", "add", testnet.Other4.String(), "--policy", "tor")
	checkByTor(t, lab, n, testnet.Other4)
	checkNoEcho(t, n, testnet.Other4)
	mustTorbpf(t, lab, "exclude", "del", testnet.Other4.String())
	checkDirect(t, n, testnet.Other4)
	mustTorbpf(t, lab, "exclude", "del", other4)
}

// checkLife: a rule ends when it said it would, with nobody alive to see to it.
func checkLife(t *testing.T, lab *testnet.Lab) {
	n := lab.Client1
	const life = 4 * time.Second
	begin := time.Now()
	mustTorbpf(t, lab, "exclude", "add", other4, "--for", life.String(), "--comment", "the bank")
	checkDirect(t, n, testnet.Other4)
	checkEcho(t, n, testnet.Other4)
	f := openFlow(t, n, "tcp", at(testnet.Other4, portFlows))
	var listed struct {
		Rules []struct {
			Match, Comment string
			Until          time.Time
		}
	}
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "exclude", "list", "--json").stdout), &listed); err != nil {
		t.Fatal(err)
	}
	if len(listed.Rules) != 1 || listed.Rules[0].Comment != "the bank" || listed.Rules[0].Until.Sub(begin) > life+time.Second {
		t.Errorf("listed as %+v", listed)
	}
	ended := func() error {
		if err := testnet.Echo(n, "udp", at(testnet.Other4, testnet.PortHTTPS), hush); err == nil {
			return errors.New("it is still direct")
		}
		return nil
	}
	eventually(t, 3*life, "the rule to end", ended)
	if took := time.Since(begin); took < life-time.Second {
		t.Errorf("it ended after %v", took)
	}
	capture := captureWAN(t, lab)
	if err := f.echo(); err == nil {
		t.Error("a connection outlives the rule that let it out")
	}
	checkByTor(t, lab, n, testnet.Other4)
	checkNoLeaks(t, capture)
	if r := mustTorbpf(t, lab, "exclude", "list"); r.stdout != "nothing is excluded\n" {
		t.Errorf("still listed: %s", r.stdout)
	}
	mustTorbpf(t, lab, "attach", lan, "--no-wait")
	audit, err := os.ReadFile(filepath.Join(stateDir(t, lab), "data", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"added destination " + other4 + " until ", "ended destination " + other4 + " until ", "(the bank), by exclude add"} {
		if !strings.Contains(string(audit), want) {
			t.Errorf("the audit lacks %q:\n%s", want, audit)
		}
	}
}
