package host

import (
	"maps"
	"net/netip"
	"testing"
)

// TestOwnersAreTheLinksThatAreMeant, by the names that they have now.
func TestOwnersAreTheLinksThatAreMeant(t *testing.T) {
	enterNamespace(t)
	run(t, `
ip link add wan0 type bridge
ip link add lan0 type bridge
ip link add lan1 type bridge
ip addr add 203.0.113.7/24 dev wan0
ip addr add 192.168.5.1/24 dev lan0
ip addr add fd05::1/64 dev lan0
ip addr add 192.168.6.1/24 dev lan1
ip link set lan0 name br-lan
`)
	h := read(t)
	got, err := Owners([]int{link(t, h, "br-lan").Index, link(t, h, "lan1").Index})
	if err != nil {
		t.Fatal(err)
	}
	want := map[netip.Addr]string{
		netip.MustParseAddr("192.168.5.1"): "br-lan", netip.MustParseAddr("fd05::1"): "br-lan", netip.MustParseAddr("192.168.6.1"): "lan1",
	}
	if !maps.Equal(got, want) {
		t.Errorf("owners are %v, want %v", got, want)
	}
}
