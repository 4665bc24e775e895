package sentry

import (
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
)

// TestAQuestionGoesToTheTorOfItsDevice, as the LAN program sends all else of it there, and to
// another one while that is not ready.
func TestAQuestionGoesToTheTorOfItsDevice(t *testing.T) {
	const several = 4
	m := newGates(t)
	for i := range uint32(abi.MaxInstances) {
		must(t, m.Put(i, abi.DatapathGate{Open: 1})) // as those that were there before left them
	}
	cfg := Config{Tors: make([]TorConfig, several), GateFD: m.FD()}
	for i := range cfg.Tors {
		cfg.Tors[i].DNSPort = uint16(9053 + 100*i)
	}
	gates, err := openGates(cfg)
	must(t, err)
	for _, gate := range gates {
		defer func() { must(t, gate.Close()) }()
	}
	for i := range uint32(abi.MaxInstances) {
		if open := gateIsOpen(t, m, i); open != (i < several) {
			t.Errorf("gate %d: open = %v", i, open)
		}
	}
	all := newTors(cfg, gates, 0)
	expect := func(what string, from client, want int) {
		t.Helper()
		if got := all.of(from).upstream.server.Port(); got != cfg.Tors[want].DNSPort {
			t.Errorf("%s: DNSPort %d is asked, want that of tor %d", what, got, want)
		}
	}
	ready := func(i int) bool { return gateIsOpen(t, m, uint32(i)) }
	met := make(map[int]bool)
	for i := range byte(30) {
		from := client{netip.MustParseAddr("192.168.50.11"), abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: [6]byte{2, 0, 0, 0, 0, i}}}}
		own := abi.InstanceOf(from.device, several, ready)
		met[own] = true
		expect("a device", from, own)
		gates[own].Set(false)
		other := abi.InstanceOf(from.device, several, ready)
		if other == own {
			t.Errorf("device %d stays with tor %d, which is gone", i, own)
		}
		expect("a device whose own is gone", from, other)
		gates[own].Set(true)
	}
	if len(met) != several {
		t.Errorf("the devices have %v of %d tors", met, several)
	}
	expect("nobody's question", client{addr: netip.MustParseAddr("fe80::7%eth1")}, abi.InstanceOf(abi.DatapathDeviceKey{Addr: netip.MustParseAddr("fe80::7").As16()}, several, ready))
	for _, gate := range gates[1:] {
		gate.Set(false)
	}
	expect("this machine", client{addr: netip.MustParseAddr("127.0.0.1")}, 0)
	gates[0].Set(false)
	expect("this machine, which has no other", client{addr: netip.MustParseAddr("127.0.0.1")}, 0)
}
