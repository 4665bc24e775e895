package plan

import (
	"strings"
	"testing"
)

// TestInFastPath: each thing that the fast path would pass by or get wrong, by itself.
func TestInFastPath(t *testing.T) {
	p := &Plan{
		LANs:    []LAN{{Name: "eth1", Index: 3, Ethernet: true}},
		Uplinks: []Uplink{{Name: "eth0", Index: 2, Ethernet: true}},
	}
	sound := func() FastHost {
		return FastHost{
			Host: Host{Links: []Link{
				{Index: 2, Name: "eth0", Ethernet: true},
				{Index: 3, Name: "eth1", Ethernet: true, Kind: "vlan"},
				{Index: 4, Name: "br0", Ethernet: true, Kind: "bridge"},
			}},
			Qdiscs:   []Qdisc{{2, "mq"}, {2, "fq_codel"}, {2, "clsact"}, {3, "noqueue"}, {4, "cake"}},
			Programs: []Program{{4, "an XDP program"}},
			Forwards: true,
		}
	}
	if why := p.InFastPath(sound()); len(why) > 0 {
		t.Errorf("nothing is in the way, but %v", why)
	}
	for _, c := range []struct {
		change func(*FastHost)
		want   string
	}{
		{func(h *FastHost) { h.Links = h.Links[1:] }, "eth0 is gone"},
		{func(h *FastHost) { h.Links[0].Ethernet, h.Links[0].Kind = false, "ppp" }, "eth0 has no Ethernet header"},
		{func(h *FastHost) { h.Links[1].Kind = "bridge" }, "eth1 is of kind bridge"},
		{func(h *FastHost) { h.Links[0].Master = 9 }, "eth0 is part of another interface"},
		{func(h *FastHost) { h.Qdiscs = append(h.Qdiscs, Qdisc{2, "cake"}) }, "eth0 has a qdisc cake"},
		{func(h *FastHost) { h.Programs = append(h.Programs, Program{3, "an XDP program"}) }, "eth1 has an XDP program of somebody else"},
		{func(h *FastHost) { h.Rules = []Rule{{Priority: 77, Mark: 7, Mask: 0xff}} }, "an ip rule of priority 77 goes by the mark 0x7/0xff"},
		{func(h *FastHost) { h.Flowtables = []string{"fw ft"} }, "a flowtable: fw ft"},
		{func(h *FastHost) { h.Forwards = false }, "does not forward"},
		{func(h *FastHost) { h.BridgeNF = true }, "bridge-nf-call"},
		{func(h *FastHost) { h.IPsec = true }, "IPsec"},
		{func(h *FastHost) { h.Accounting = true }, "nf_conntrack_acct is 1"},
		{func(h *FastHost) { h.Strict = true }, "nf_conntrack_tcp_be_liberal is 0"},
	} {
		h := sound()
		c.change(&h)
		if why := p.InFastPath(h); len(why) != 1 || !strings.Contains(why[0], c.want) {
			t.Errorf("want %q alone, got %q", c.want, why)
		}
	}
	h := sound()
	if ports := p.FramePorts(h); len(ports) > 0 {
		t.Errorf("without XDP programs frames go between %v", ports)
	}
	p.LANs[0].Early, p.Uplinks[0].Frames = EarlyNative, EarlyNative
	h.Qdiscs = []Qdisc{{2, "mq"}, {2, "pfifo_fast"}, {3, "fq_codel"}}
	if ports := p.FramePorts(h); len(ports) != 1 || ports[0].Name != "eth0" {
		t.Errorf("frames go between %v, want eth0 alone: a qdisc of the other sorts", ports)
	}
	if why := (&Plan{}).InFastPath(sound()); len(why) != 2 {
		t.Errorf("without a LAN and an uplink: %q", why)
	}
}
