package plan

import (
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// builder writes hosts the way ip(8) prints them.
type builder struct {
	t *testing.T
	Host
}

func newHost(t *testing.T) *builder {
	b := &builder{t: t}
	b.Links = []Link{{Index: 1, Name: "lo", Loopback: true, Ethernet: true}}
	return b.addr("lo", "127.0.0.1/8", "::1/128")
}

// link adds an interface with the next index; kind "" is hardware.
func (b *builder) link(name, kind string) *builder {
	ethernet := kind != "ppp" && kind != "wireguard" && kind != "tun"
	b.Links = append(b.Links, Link{Index: len(b.Links) + 1, Name: name, Kind: kind, Ethernet: ethernet})
	return b
}

func (b *builder) index(name string) int {
	b.t.Helper()
	l, ok := b.LinkByName(name)
	if !ok {
		b.t.Fatalf("this test's host has no %s", name)
	}
	return l.Index
}

func (b *builder) master(name, master string) *builder {
	b.Links[b.index(name)-1].Master = b.index(master)
	return b
}

func (b *builder) parent(name, parent string) *builder {
	b.Links[b.index(name)-1].Parent = b.index(parent)
	return b
}

func (b *builder) addr(name string, prefixes ...string) *builder {
	for _, p := range prefixes {
		b.Addrs = append(b.Addrs, Addr{Index: b.index(name), Prefix: netip.MustParsePrefix(p)})
	}
	return b
}

func (b *builder) route(dst, name string) *builder { return b.routeIn(254, dst, name) }

func (b *builder) routeIn(table uint32, dst, name string) *builder {
	b.Routes = append(b.Routes, Route{Dst: netip.MustParsePrefix(dst), Index: b.index(name), Table: table})
	return b
}

func (b *builder) rule(priority int, mark, mask uint32) *builder {
	b.Rules = append(b.Rules, Rule{Priority: priority, Mark: mark, Mask: mask, Family: 4})
	return b
}

// homeRouter: eth0 is the WAN, eth1 the LAN.
func homeRouter(t *testing.T) *builder {
	return newHost(t).link("eth0", "").link("eth1", "").
		addr("eth0", "198.51.100.7/24", "fe80::a/64").
		addr("eth1", "192.168.1.1/24", "fe80::b/64").
		route("0.0.0.0/0", "eth0").
		route("198.51.100.0/24", "eth0").
		route("192.168.1.0/24", "eth1").
		route("fe80::/64", "eth0").
		route("fe80::/64", "eth1")
}

func wish(interfaces ...string) config.Config {
	c := config.Default()
	c.Interfaces = interfaces
	return c
}

func prefixList(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
