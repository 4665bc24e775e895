package host

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// TestNeighboursAreThoseOfTheLANs, whatever somebody on the WAN claims.
func TestNeighboursAreThoseOfTheLANs(t *testing.T) {
	enterNamespace(t)
	run(t, router+`
ip link add lan1 type bridge
ip neigh add 192.168.5.7 lladdr 02:00:00:00:00:07 dev lan0
ip neigh add 192.168.5.7 lladdr 02:00:00:00:00:66 dev wan0
ip neigh add 192.168.5.8 lladdr 02:00:00:00:00:66 dev wan0
ip neigh add fd05::7 lladdr 02:00:00:00:00:07 dev lan0
ip neigh add 192.168.5.9 lladdr 02:00:00:00:00:09 dev lan0
ip neigh add 192.168.5.9 lladdr 02:00:00:00:00:19 dev lan1
`)
	h := read(t)
	got, err := Neighbours([]int{link(t, h, "lan0").Index, link(t, h, "lan1").Index})
	if err != nil {
		t.Fatal(err)
	}
	device := config.MAC{2, 0, 0, 0, 0, 7}
	want := map[netip.Addr]config.MAC{netip.MustParseAddr("192.168.5.7"): device, netip.MustParseAddr("fd05::7"): device}
	if !maps.Equal(got, want) {
		t.Errorf("neighbours are %v, want %v: what two LANs have tells nobody apart", got, want)
	}
}
