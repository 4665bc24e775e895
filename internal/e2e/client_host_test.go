package e2e

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

const (
	bridge     = "docker0"
	bridgeAddr = "172.17.0.1"
)

// addContainer puts a network namespace behind a bridge of the router, as Docker does.
func addContainer(t testing.TB, lab *testnet.Lab) *testnet.Node {
	t.Helper()
	container, err := lab.AddNode("container")
	if err != nil {
		t.Fatal(err)
	}
	run(t, lab.Router, "ip", "link", "add", bridge, "type", "bridge")
	run(t, lab.Router, "ip", "addr", "add", bridgeAddr+"/16", "dev", bridge)
	run(t, lab.Router, "ip", "link", "set", bridge, "up")
	err = lab.Link(
		testnet.Iface{Node: lab.Router, Name: "veth-c"},
		testnet.Iface{Node: container, Name: "eth0", Addrs: []string{"172.17.0.2/16"}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, lab.Router, "ip", "link", "set", "veth-c", "master", bridge)
	run(t, container, "ip", "route", "add", "default", "via", bridgeAddr)
	container.Resolver = at(netip.MustParseAddr(bridgeAddr), testnet.PortDNS)
	t.Cleanup(func() {
		for _, name := range []string{"veth-c", bridge} {
			if _, err := lab.Router.Run(context.Background(), "ip", "link", "del", name); err != nil {
				t.Error(err)
			}
		}
	})
	return container
}

// TestContainersAreDevices: client mode says that they are not this machine; with their
// bridge attached as well they are on Tor.
func TestContainersAreDevices(t *testing.T) {
	lab := torLab(t)
	container := addContainer(t, lab)
	if r := attach(t, lab, "--client"); !strings.Contains(r.stderr, "torbpf attach "+bridge) {
		t.Errorf("attach --client does not name the bridge: %v", r)
	}
	checkByTor(t, lab, lab.Router, testnet.Web4)
	checkDirect(t, container, testnet.Web4)
	if r := mustTorbpf(t, lab, attachArgs(lab, bridge)...); strings.Contains(r.stderr, "torbpf attach "+bridge) {
		t.Errorf("attach %s names it still: %v", bridge, r)
	}
	forget(lab)
	capture := captureWAN(t, lab)
	checkByTor(t, lab, container, testnet.Web4)
	checkNoEcho(t, container, testnet.Web4)
	if err := lookup(container, container.Resolver, "container."+testnet.Zone, "A", "udp", testnet.Web4.String()); err != nil {
		t.Error(err)
	}
	checkByTor(t, lab, lab.Router, testnet.Web4)
	checkServersSawExitsOnly(t, lab)
	checkNoLeaks(t, capture)
}

// TestRunMendsClientMode: whatever part of it is taken away, the daemon puts it back, and
// meanwhile nothing leaves.
func TestRunMendsClientMode(t *testing.T) {
	lab := clientLab(t)
	startRun(t, lab, filepath.Join(lab.Dir(), "none.toml"))
	w := watchLeaks(t, lab)
	links := func(pattern string) func() {
		return func() { removeAll(t, filepath.Join(pinDir(t, lab), "links", pattern)) }
	}
	for _, fault := range []struct {
		name    string
		inflict func()
	}{
		{"nft flush ruleset", func() { run(t, lab.Router, "nft", "flush", "ruleset") }},
		{"control group programs", links("client_*")},
		{"uplink guard", links("uplink-*")},
		{"third guard", links("departure*")},
	} {
		t.Run(fault.name, func(t *testing.T) {
			mended := func() error { return sound(t, lab) }
			eventually(t, patience, "client mode", mended)
			w.Reset()
			fault.inflict()
			eventually(t, fairly(t, soon), "its repair", mended)
			checkNoEcho(t, lab.Router, testnet.Web4, testnet.Web6)
			for _, l := range w.Leaks(nil) {
				t.Error(l)
			}
		})
	}
}
