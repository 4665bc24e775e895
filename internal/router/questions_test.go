package router

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// TestQuestionsOfAnotherTorAreMisled: by the device, which is known of a neighbour, and by the
// address where there are no hardware addresses.
func TestQuestionsOfAnotherTorAreMisled(t *testing.T) {
	prefix := netip.MustParsePrefix
	p := &plan.Plan{
		Ports: plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054}, Instances: 2,
		LANs: []plan.LAN{{Name: "eth1", Ethernet: true, Prefixes: []netip.Prefix{prefix("192.168.50.0/24")}}, {Name: "wg0", Prefixes: []netip.Prefix{prefix("10.8.0.0/24")}}},
	}
	open := []bool{true, true}
	ready := func(i int) bool { return open[i] }
	neighbour, mac := netip.MustParseAddr("192.168.50.11"), config.MAC{2, 0, 0, 0, 0, 9}
	peer := netip.MustParseAddr("10.8.0.7")
	ofNeighbour := abi.InstanceOf(abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: mac}}, 2, ready)
	ofPeer := abi.InstanceOf(abi.DatapathDeviceKey{Addr: peer.As16()}, 2, ready)
	flow := func(src netip.Addr, port uint16) plan.Flow {
		return plan.Flow{Protocol: unix.IPPROTO_UDP, Src: netip.AddrPortFrom(src, 5353), ReplySrc: netip.AddrPortFrom(netip.MustParseAddr("192.168.50.1"), port), DNAT: true}
	}
	expect := func(what string, f plan.Flow, want bool) {
		t.Helper()
		got := misled(p, []plan.Flow{f}, open, map[netip.Addr]config.MAC{neighbour: mac})
		if (len(got) == 1) != want {
			t.Errorf("%s: misled is %t, want %t", what, len(got) == 1, want)
		}
	}
	tors := p.Tors()
	expect("a neighbour at its own", flow(neighbour, tors[ofNeighbour].DNS), false)
	expect("a neighbour at the other", flow(neighbour, tors[1-ofNeighbour].DNS), true)
	expect("a peer at its own", flow(peer, tors[ofPeer].DNS), false)
	expect("a peer at the other", flow(peer, tors[1-ofPeer].DNS), true)
	expect("somebody who may be any device", flow(netip.MustParseAddr("192.168.50.99"), tors[0].DNS), true)
	expect("at the sentry", flow(neighbour, p.Ports.Resolver), false)
	expect("at somebody else's port", flow(neighbour, 53), false)
	open[ofNeighbour] = false
	expect("a neighbour whose own is gone, at it", flow(neighbour, tors[ofNeighbour].DNS), true)
	expect("a neighbour whose own is gone, at the other", flow(neighbour, tors[1-ofNeighbour].DNS), false)
}
