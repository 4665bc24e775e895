package router

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// TestRulesWithoutEffectAreTold, and those that let out more than their writer may think; of
// others nothing is said.
func TestRulesWithoutEffectAreTold(t *testing.T) {
	prefix := netip.MustParsePrefix
	p := &plan.Plan{
		LANs:       []plan.LAN{{Name: "eth1", Prefixes: []netip.Prefix{prefix("192.168.50.0/24"), prefix("fd50::/64"), prefix("fe80::/10")}}},
		LocalAddrs: []netip.Addr{netip.MustParseAddr("192.168.50.1"), netip.MustParseAddr("62.10.0.2")},
		Onion4:     prefix("10.192.0.0/10"), Onion6: prefix("fd74:6f72:f00::/40"), LocalMode: config.LocalConnected,
		Exits: []plan.Exit{{Name: "nope0"}, {Name: "wg0", Index: 7}},
	}
	for _, c := range []struct {
		kind        config.Kind
		entry, says string
	}{
		{config.KindDestination, "127.0.0.1", "never on the wire"}, {config.KindDestination, "224.0.0.1", "stay on their link"},
		{config.KindDestination, "fe80::1", "stays on its link"}, {config.KindDestination, "10.192.0.0/10", "range of .onion names"},
		{config.KindDestination, "192.168.50.0/24", "is behind eth1, and local anyway"}, {config.KindDestination, "62.10.0.2", "is the router's own"},
		{config.KindSource, "8.8.8.8", "is behind no LAN now"}, {config.KindSource, "192.168.50.1", "is the router's own"},
		{config.KindInterface, "nope0", "is not there now"},
		{config.KindPort, "443/tcp", "most of the web"}, {config.KindPort, "53/udp", "what devices look up"},
		{config.KindDestination, "9.9.9.9", ""}, {config.KindDestination, "10.0.0.0/8", ""}, {config.KindSource, "192.168.50.7", ""},
		{config.KindSource, "192.168.0.0/16", ""}, {config.KindInterface, "wg0", ""}, {config.KindPort, "22/tcp", ""},
		{config.KindPort, "53/udp@10.8.0.1", ""}, {config.KindMark, "0x100", ""},
	} {
		entry, err := config.ParseEntry(c.kind, c.entry)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(cautions(config.Rules{config.Direct(entry)}, p), "; ")
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s %s: %q, want %q", c.kind, c.entry, got, c.says)
		}
		tors := config.Direct(entry)
		tors.Policy = config.PolicyTor
		if got := cautions(config.Rules{tors}, p); len(got) > 0 {
			t.Errorf("%s %s is kept with Tor: %v", c.kind, c.entry, got)
		}
	}
}
