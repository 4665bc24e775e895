package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// TestInFlowtable: each thing that a flowtable would get wrong or outlive, by itself.
func TestInFlowtable(t *testing.T) {
	plan := func() *Plan {
		return &Plan{
			LANs:    []LAN{{Name: "eth1", Index: 3, Ethernet: true}, {Name: "wlan0", Index: 4}},
			Uplinks: []Uplink{{Name: "eth0", Index: 2, Ethernet: true}, {Name: "ppp0", Index: 5}},
			Rules:   config.DirectPrefixes(config.KindDestination, netip.MustParsePrefix("192.0.2.0/24")),
		}
	}
	sound := func() FastHost {
		return FastHost{
			Host: Host{Links: []Link{
				{Index: 2, Name: "eth0", Ethernet: true},
				{Index: 3, Name: "eth1", Ethernet: true, Kind: "bridge"},
				{Index: 4, Name: "wlan0", Ethernet: true},
				{Index: 5, Name: "ppp0", Kind: "ppp"},
				{Index: 6, Name: "eth2", Ethernet: true, Master: 3},
				{Index: 7, Name: "br0", Ethernet: true, Kind: "bridge"},
			}},
			Qdiscs:     []Qdisc{{2, "tbf"}, {2, "fq_codel"}, {2, "clsact"}, {3, "noqueue"}, {7, "cake"}},
			Programs:   []Program{{2, "an XDP program"}},
			Flowtables: []string{"fw ft"},
			Forwards:   true,
			Accounting: true,
			Strict:     true,
		}
	}
	if why := plan().InFlowtable(sound()); len(why) > 0 {
		t.Errorf("nothing is in the way, but %v", why)
	}
	soon := time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		change func(*Plan, *FastHost)
		want   string
	}{
		{func(_ *Plan, h *FastHost) { h.Links = h.Links[1:] }, "eth0 is gone"},
		{func(_ *Plan, h *FastHost) { h.Qdiscs = append(h.Qdiscs, Qdisc{2, "htb"}) }, "eth0 has a qdisc htb"},
		{func(_ *Plan, h *FastHost) { h.Qdiscs = append(h.Qdiscs, Qdisc{4, "cake"}) }, "wlan0 has a qdisc cake"},
		{func(_ *Plan, h *FastHost) { h.Forwards = false }, "does not forward"},
		{func(_ *Plan, h *FastHost) { h.IPsec = true }, "IPsec"},
		{func(_ *Plan, h *FastHost) { h.Links[3].Parent = 2 }, "ppp0 lies upon eth0"},
		{func(_ *Plan, h *FastHost) { h.Links[2].Master = 3 }, "eth1 lies upon wlan0"},
		{func(_ *Plan, h *FastHost) { h.Links[4].Parent, h.Links[4].Kind = 2, "vlan" }, "eth1 lies upon eth0"},
		{func(p *Plan, _ *FastHost) { p.LANs = nil }, "no LAN is attached"},
		{func(p *Plan, _ *FastHost) { p.Uplinks = nil }, "there is no uplink"},
		{func(p *Plan, _ *FastHost) { p.Rules[0].Until = soon }, "ends by the clock, which accelerated flows would outlive: destination 192.0.2.0/24"},
		{func(p *Plan, _ *FastHost) {
			p.Rules[0].Policy, p.Rules[0].Beneath = config.PolicyTor, &config.Rule{Policy: config.PolicyDirect, Until: soon}
		}, "ends by the clock"},
	} {
		p, h := plan(), sound()
		c.change(p, &h)
		if why := p.InFlowtable(h); len(why) != 1 || !strings.Contains(why[0], c.want) {
			t.Errorf("want %q alone, got %q", c.want, why)
		}
	}
	p := plan()
	p.Rules = append(p.Rules, config.DirectMarks(config.Mark{Value: 1, Mask: 1})...)
	p.Rules[1].Until = soon
	if why := p.InFlowtable(sound()); len(why) > 0 {
		t.Errorf("what is let out by a mark never gets in, but %q", why)
	}
	if got := p.FlowDevices(); !slices.Equal(got, []string{"eth0", "eth1", "ppp0", "wlan0"}) {
		t.Errorf("its devices are %v", got)
	}
}
