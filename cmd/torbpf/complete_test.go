package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
)

// TestOnlyWhatAttachTakesIsOffered: neither uplinks nor the loopback interface.
func TestOnlyWhatAttachTakesIsOffered(t *testing.T) {
	facts := plan.Host{
		Links: []plan.Link{{Name: "lo", Index: 1, Loopback: true}, {Name: "eth0", Index: 2}, {Name: "eth1", Index: 3}},
		Addrs: []plan.Addr{
			{Index: 1, Prefix: netip.MustParsePrefix("127.0.0.1/8")},
			{Index: 2, Prefix: netip.MustParsePrefix("198.51.100.7/24")},
			{Index: 3, Prefix: netip.MustParsePrefix("192.168.50.1/24")},
		},
		Routes: []plan.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Index: 2, Table: 254, By: true}},
	}
	if got := lanNames(facts); !slices.Equal(got, []string{"eth1"}) {
		t.Errorf("offered are %v", got)
	}
}
