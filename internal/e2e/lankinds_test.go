package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// lanKind is a kind of interface that a LAN can be. Its devices are behind eth5 of the router.
type lanKind struct {
	name, lan      string
	option         string // without which a kernel has none
	trial          string // what ip takes to make one
	router, device func(*testing.T) []string
	refused        string // what attach says of eth5, which carries it
}

func lines(text ...string) func(*testing.T) []string {
	return func(*testing.T) []string { return text }
}

var lanKinds = []lanKind{
	{
		name: "VLAN", lan: "eth5.7", option: "CONFIG_VLAN_8021Q", trial: "link eth0 name trial.7 type vlan id 7",
		router: lines("ip link add link eth5 name eth5.7 type vlan id 7", "ip addr add 192.168.70.1/24 dev eth5.7", "ip link set eth5.7 up"),
		device: lines("ip link add link eth0 name eth0.7 type vlan id 7", "ip addr add 192.168.70.11/24 dev eth0.7", "ip link set eth0.7 up",
			"ip route add default via 192.168.70.1"),
		refused: "eth5.7",
	},
	{
		name: "bond", lan: "bond5", option: "CONFIG_BONDING", trial: "trial type bond",
		router: lines("ip link add bond5 type bond mode active-backup miimon 50", "ip link set eth5 down", "ip link set eth5 master bond5",
			"ip addr add 192.168.70.1/24 dev bond5", "ip link set bond5 up"),
		device:  lines("ip addr add 192.168.70.11/24 dev eth0", "ip route add default via 192.168.70.1"),
		refused: "bond5",
	},
}

// TestLANsOfEveryKind: devices behind interfaces of these kinds are treated like any others, and
// what carries one is refused in its place.
func TestLANsOfEveryKind(t *testing.T) {
	for _, k := range append(lanKinds, wireGuardLAN(t)) {
		t.Run(k.name, func(t *testing.T) { checkLANKind(t, k) })
	}
}

// wireGuardLAN is a LAN whose devices are peers of the router's, and which has no Ethernet.
func wireGuardLAN(t *testing.T) lanKind {
	near, nearPublic := wgKey(t)
	far, farPublic := wgKey(t)
	end := func(name, key, peer, allowed, rest string) string {
		return fmt.Sprintf("wg set %s private-key <(echo %s) %s peer %s allowed-ips %s", name, key, rest, peer, allowed)
	}
	return lanKind{
		name: "WireGuard", lan: "wg5", option: "CONFIG_WIREGUARD", trial: "trial type wireguard",
		router: lines("ip addr add 192.168.75.1/24 dev eth5", "ip link add wg5 type wireguard",
			end("wg5", near, farPublic, "192.168.70.11/32", "listen-port 51820"),
			"ip addr add 192.168.70.1/24 dev wg5", "ip link set wg5 up"),
		device: lines("ip addr add 192.168.75.11/24 dev eth0", "ip link add wg0 type wireguard",
			end("wg0", far, nearPublic, "0.0.0.0/0 endpoint 192.168.75.1:51820", ""),
			"ip addr add 192.168.70.11/24 dev wg0", "ip link set wg0 up", "ip route add default dev wg0"),
	}
}

func checkLANKind(t *testing.T, k lanKind) {
	lab := plainLab(t, testnet.Options{})
	if _, err := lab.Internet.Run(t.Context(), "ip", strings.Fields("link add "+k.trial)...); err != nil {
		t.Skipf("this kernel was built without it (%s)", k.option)
	}
	device, err := lab.AddNode("device")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Link(testnet.Iface{Node: device, Name: "eth0"}, testnet.Iface{Node: lab.Router, Name: "eth5"}); err != nil {
		t.Fatal(err)
	}
	run(t, lab.Router, "bash", "-ec", strings.Join(k.router(t), "\n"))
	run(t, device, "bash", "-ec", strings.Join(k.device(t), "\n"))
	serveFlows(t, lab, testnet.Web4)
	eventually(t, patience, "the device to be heard", func() error {
		_, err := device.Run(context.Background(), "ping", "-q", "-c", "1", "-W", "1", testnet.Web4.String())
		return err
	})
	before := openFlow(t, device, "tcp", at(testnet.Web4, portFlows))
	if r := runTorbpf(t, lab, "attach", "eth5", "--no-wait"); k.refused != "" && (r.code == 0 || !strings.Contains(r.stderr, k.refused)) {
		detachLater(t, lab)
		t.Errorf("attach to what carries %s: %v", k.lan, r)
	}
	attach(t, lab, k.lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	capture := captureWAN(t, lab)
	if err := before.ends(); err != nil {
		t.Error(err)
	}
	checkNoEcho(t, device, testnet.Web4)
	checkNoLeaks(t, capture)
	mustTorbpf(t, lab, "exclude", "add", other4)
	checkEcho(t, device, testnet.Other4)
	checkNoEcho(t, device, testnet.Web4)
	if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, k.lan) {
		t.Errorf("status: %v", r)
	}
}
