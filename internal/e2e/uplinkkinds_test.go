package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// uplinkKind is a kind of interface that leads outside, upon the router's eth0 and the ISP's wan0.
type uplinkKind struct {
	name, uplink, far string // the interface, and the ISP's end of it
	option            string // without which a kernel has none
	trial             string // what ip takes to make one; "": open does not make one either
	open              func(*testing.T, *testnet.Lab)
	router, isp       []string
}

var uplinkKinds = []uplinkKind{
	{
		name: "VLAN", uplink: "eth0.7", far: "wan0.7", option: "CONFIG_VLAN_8021Q", trial: "link eth0 name trial.7 type vlan id 7",
		router: []string{"ip link add link eth0 name eth0.7 type vlan id 7"},
		isp:    []string{"ip link add link wan0 name wan0.7 type vlan id 7"},
	},
	{
		name: "bond", uplink: "bond0", far: "wan0", option: "CONFIG_BONDING", trial: "trial type bond",
		router: []string{"ip link add bond0 type bond mode active-backup miimon 50", "ip link set eth0 down", "ip link set eth0 master bond0"},
	},
	{name: "PPPoE", uplink: "ppp0", far: "ppp0", option: "CONFIG_PPPOE", open: openPPPoE},
	{
		name: "PPPoE upon a VLAN", uplink: "ppp0", far: "ppp0", option: "CONFIG_PPPOE", open: openPPPoEUponVLAN,
	},
}

// makeWAN has the router lead outside by the kind, and by eth0 no more.
func (k uplinkKind) makeWAN(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	for _, end := range []struct {
		node  *testnet.Node
		below string
		make  []string
	}{{lab.ISP, "wan0", k.isp}, {lab.Router, wan, k.router}} {
		script := append([]string{"ip addr flush dev " + end.below + " scope global"}, end.make...)
		run(t, end.node, "bash", "-ec", strings.Join(script, "\n"))
	}
	if k.open != nil {
		k.open(t, lab)
	}
	for _, end := range []struct {
		node  *testnet.Node
		above string
		addrs []string
	}{
		{lab.ISP, k.far, []string{"62.10.0.1/24", "2a0c:10::1/64"}},
		{lab.Router, k.uplink, []string{"62.10.0.2/24", "2a0c:10::2/64"}},
	} {
		script := []string{"ip link set " + end.above + " up", "ip addr replace " + end.addrs[0] + " dev " + end.above, "ip -6 addr replace " + end.addrs[1] + " nodad dev " + end.above}
		run(t, end.node, "bash", "-ec", strings.Join(script, "\n"))
	}
	run(t, lab.Router, "bash", "-ec", fmt.Sprintf("ip route replace default via %v dev %s; ip -6 route replace default via %v dev %s",
		testnet.WANISP4, k.uplink, testnet.WANISP6, k.uplink))
	run(t, lab.ISP, "bash", "-ec", fmt.Sprintf("for p in %v %v; do ip -6 route replace $p via %v dev %s; done", testnet.LAN6, testnet.LAN2v6, testnet.WANRouter6, k.far))
	userRules(t, lab, "inet", fmt.Sprintf(`chain masks { type nat hook postrouting priority 50; oifname %q ip saddr %v masquerade; }`, k.uplink, testnet.LAN4))
}

// TestUplinksOfEveryKind: whatever an uplink is made of, it is found, has a guard of its own that holds when all
// others are gone, and carries what is excluded.
func TestUplinksOfEveryKind(t *testing.T) {
	for _, k := range uplinkKinds {
		t.Run(k.name, func(t *testing.T) {
			lab := plainLab(t, testnet.Options{})
			has := hasPPPoE
			if k.trial != "" {
				has = func(lab *testnet.Lab) bool {
					_, err := lab.Internet.Run(t.Context(), "ip", strings.Fields("link add "+k.trial)...)
					return err == nil
				}
			}
			if !has(lab) {
				t.Skipf("this kernel was built without it (%s)", k.option)
			}
			k.makeWAN(t, lab)
			checkUplinkKind(t, lab, k)
		})
	}
}

func checkUplinkKind(t *testing.T, lab *testnet.Lab, k uplinkKind) {
	t.Helper()
	serveFlows(t, lab, testnet.Web4)
	eventually(t, patience, "the uplink to lead outside", func() error {
		return errors.Join(testnet.Echo(lab.Client1, "udp", at(testnet.Web4, testnet.PortEcho), hush), testnet.Echo(lab.Client1, "udp", at(testnet.Web6, testnet.PortEcho), hush))
	})
	before := openFlow(t, lab.Client1, "tcp", at(testnet.Web4, portFlows))
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--exclude", other4, "--exclude", other6)
	if names := guardedUplinks(t, lab); !slices.Contains(names, k.uplink) {
		t.Fatalf("uplinks with a guard are %v, without %s", names, k.uplink)
	}
	core := captureCore(t, lab)
	if err := before.ends(); err != nil {
		t.Error(err)
	}
	checkNoEcho(t, lab.Client1, testnet.Web4, testnet.Web6)
	sendStrays(t, lab.Client1)
	checkEcho(t, lab.Client1, testnet.Other4, testnet.Other6) // last, so that all before it is there as well
	checkCore(t, core)
	checkLastGuardOf(t, lab, testnet.Web4, testnet.Web6)
}

// captureCore records what the ISP hands on to the internet, whatever the uplink wraps it in.
func captureCore(t *testing.T, lab *testnet.Lab) *testnet.Capture {
	t.Helper()
	capture, err := lab.Capture(t.Context(), lab.ISP, "core0")
	if err != nil {
		t.Fatal(err)
	}
	return capture
}

// checkCore wants nothing there but what is excluded.
func checkCore(t *testing.T, core *testnet.Capture) {
	t.Helper()
	var passed int
	for _, p := range core.Packets() {
		switch dst := p.Dst.Addr(); {
		case p.Inbound || p.Proto == "arp" || p.Proto == "icmpv6" && p.Src.Addr().IsLinkLocalUnicast():
		case dst == testnet.Other4 || dst == testnet.Other6:
			passed++
		case p.Proto == "icmpv6" && dst == testnet.Core6: // neighbour discovery
		default:
			t.Errorf("handed on to the internet: %v", p)
		}
	}
	if passed == 0 {
		t.Error("nothing that is excluded was handed on")
	}
}

// guardedUplinks are those with a program of torbpf's.
func guardedUplinks(t *testing.T, lab *testnet.Lab) (names []string) {
	t.Helper()
	for _, u := range statusOf(t, lab).Uplinks {
		if u.AttachedBy != "" {
			names = append(names, u.Name)
		}
	}
	return names
}

// statusOf is what status says, of problems as well.
func statusOf(t *testing.T, lab *testnet.Lab) (s router.Status) {
	t.Helper()
	r := runTorbpf(t, lab, "status", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	return s
}

// checkLastGuardOf takes all away but the program at the uplink, which has to stop what a device sends to servers.
func checkLastGuardOf(t *testing.T, lab *testnet.Lab, servers ...netip.Addr) {
	t.Helper()
	lanProgramGone.inflict(t, lab)
	forwardGone.inflict(t, lab)
	tableGone.inflict(t, lab)
	for _, server := range servers {
		stopped := statusOf(t, lab).Stopped
		if err := testnet.Echo(lab.Client1, "udp", at(server, testnet.PortEcho), hush); err == nil {
			t.Errorf("%v answers with no guard but the uplink's", server)
		}
		eventually(t, patience, fmt.Sprintf("the uplink's guard to stop what is for %v", server), func() error {
			if now := statusOf(t, lab).Stopped; now <= stopped {
				return fmt.Errorf("it has stopped %d packets, before %d", now, stopped)
			}
			return nil
		})
	}
}
