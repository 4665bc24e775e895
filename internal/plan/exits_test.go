package plan

import (
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// way is a route that the kernel says it takes for everything.
func (b *builder) way(table uint32, dst, name string) *builder {
	b.Ways = append(b.Ways, Route{Dst: prefixList(dst)[0], Index: b.index(name), Table: table})
	return b
}

func (b *builder) down(name string) *builder {
	b.Links[b.index(name)-1].Down = true
	return b
}

// TestNothingGoesByTheWayToEverything: what the kernel routes counts, and where it may
// change its mind by itself, its tables.
func TestNothingGoesByTheWayToEverything(t *testing.T) {
	for _, c := range []struct {
		host    string
		change  func(*builder)
		without string // of what is excluded is no exit
	}{
		{"a VPN for some prefixes", func(b *builder) { b.route("104.16.0.0/13", "wg0").way(254, "0.0.0.0/0", "eth0") }, ""},
		{"a table of its own, for marked packets", func(b *builder) { b.routeIn(51820, "0.0.0.0/0", "wg0").way(254, "0.0.0.0/0", "eth0") }, ""},
		{"a table of its own, for all but the VPN's packets", func(b *builder) { b.routeIn(51820, "0.0.0.0/0", "wg0").way(51820, "0.0.0.0/0", "wg0") }, "wg0"},
		{"a table of its own, for IPv6", func(b *builder) { b.way(254, "0.0.0.0/0", "eth0").way(51820, "::/0", "wg0") }, "wg0"},
		{"half of the internet", func(b *builder) { b.way(51820, "128.0.0.0/1", "wg0").way(254, "0.0.0.0/0", "eth0") }, "wg0"},
		{"one prefix that a look-up happens to meet", func(b *builder) { b.way(254, "17.0.0.0/8", "wg0").way(254, "0.0.0.0/0", "eth0") }, ""},
		{"a worse default route", func(b *builder) { b.route("0.0.0.0/0", "wg0").way(254, "0.0.0.0/0", "eth0") }, "wg0"},
		{"a table of its own, of an interface that is down", func(b *builder) { b.routeIn(100, "0.0.0.0/0", "wg0").down("wg0") }, "wg0"},
		{"down, for some prefixes", func(b *builder) { b.route("104.16.0.0/13", "wg0").down("wg0") }, ""},
	} {
		b := homeRouter(t).link("wg0", "wireguard")
		c.change(b)
		cfg := wish("eth1")
		for _, name := range []string{"tun9", "wg0"} {
			cfg.Rules = append(cfg.Rules, config.Rule{Entry: config.Entry{Kind: config.KindInterface, Interface: name}, Policy: config.PolicyDirect})
		}
		for _, insisted := range []bool{false, true} {
			cfg.Everything = insisted
			p, err := Make(cfg, b.Host)
			if err != nil {
				t.Fatal(err)
			}
			var exits, widest []string
			for _, e := range p.Exits {
				exits = append(exits, e.Name)
			}
			for _, w := range p.Widest {
				widest = append(widest, w.Name)
			}
			want, wide := []string{"tun9", "wg0"}, []string(nil)
			if c.without != "" {
				wide = []string{c.without}
			}
			if c.without != "" && !insisted {
				want = []string{"tun9"}
			}
			if !slices.Equal(exits, want) || !slices.Equal(widest, wide) {
				t.Errorf("%s, insisted %v: exits %v, everything is routed to %v; want %v and %v", c.host, insisted, exits, widest, want, wide)
			}
		}
	}
}

// TestNothingOfThisMachineGoesByTheWayToEverything: its own ways count, not those of LANs.
func TestNothingOfThisMachineGoesByTheWayToEverything(t *testing.T) {
	for _, own := range []bool{false, true} {
		b := homeRouter(t).link("wg0", "wireguard").routeIn(51820, "0.0.0.0/0", "wg0").way(51820, "0.0.0.0/0", "wg0")
		if own {
			b.Ways, b.OwnWays = b.OwnWays, b.Ways
		}
		cfg := wish("eth1")
		cfg.Client.Enable = true
		for _, client := range []bool{false, true} {
			cfg.Rules = append(cfg.Rules, config.Rule{Entry: config.Entry{Kind: config.KindInterface, Interface: "wg0", Client: client}, Policy: config.PolicyDirect})
		}
		p, err := Make(cfg, b.Host)
		if err != nil {
			t.Fatal(err)
		}
		if lans, machine := len(p.Exits) == 1, len(p.Client.Exits) == 1; lans != own || machine == own {
			t.Errorf("this machine's own ways: %v; LANs leave by %v, this machine by %v", own, p.Exits, p.Client.Exits)
		}
		if lans, machine := len(p.Widest) == 1, len(p.Client.Widest) == 1; lans == own || machine != own {
			t.Errorf("this machine's own ways: %v; everything of LANs leaves by %v, of this machine by %v", own, p.Widest, p.Client.Widest)
		}
	}
}
