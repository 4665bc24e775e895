package plan

import (
	"math/bits"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

func TestMakeLeavesItsInputAlone(t *testing.T) {
	cfg, host := excluding(t)
	again, sameHost := excluding(t)
	first, err := Make(cfg, host)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cfg, again) || !reflect.DeepEqual(host, sameHost) {
		t.Error("Make changed its input")
	}
	second, err := Make(cfg, host)
	if err != nil || first.String() != second.String() {
		t.Errorf("made two plans of one wish: %v\n%s\n%s", err, first, second)
	}
}

func TestMarksClashOnlyWhereBitsMeet(t *testing.T) {
	for _, c := range []struct {
		who         string
		shift       uint8
		value, mask uint32
		want        bool
	}{
		{"wg-quick", 24, 0xca6c, config.FullMask, false},
		{"wg-quick, no mask told", 24, 0xca6c, 0, false},
		{"wg-quick, our bits low", 0, 0xca6c, config.FullMask, true},
		{"wg-quick, no mask told, our bits low", 0, 0xca6c, 0, true},
		{"tailscale", 24, 0x80000, 0xff0000, false},
		{"tailscale", 16, 0x80000, 0xff0000, true},
		{"tailscale", 20, 0x80000, 0xff0000, true},
		{"kubernetes", 8, 0x4000, 0x4000, true},
		{"mwan3", 24, 0x100, 0x3f00, false},
		{"whole mark with a bit of ours", 24, 0x08000000, config.FullMask, true},
		{"our bits must be clear", 24, 0, 0x08000000, true},
		{"a rule on unmarked packets", 24, 0, config.FullMask, false},
		{"all but our bits", 24, 1, 0x00ffffff, false},
	} {
		if got := clashes(Mark{Shift: c.shift}, c.value, c.mask); got != c.want {
			t.Errorf("%s: %#x/%#x with shift %d: clash %v, want %v", c.who, c.value, c.mask, c.shift, got, c.want)
		}
	}
}

func TestOurBitsLeaveWholeMarkMasks(t *testing.T) {
	c := wish("eth1")
	c.Rules = config.DirectMarks([]config.Mark{{Value: 0x100, Mask: config.FullMask}, {Value: 0x100, Mask: 0x00ffffff}, {Value: 1, Mask: 1}}...)
	p, err := Make(c, homeRouter(t).Host)
	if err != nil {
		t.Fatal(err)
	}
	if want := []config.Mark{{Value: 1, Mask: 1}, {Value: 0x100, Mask: 0x00ffffff}}; !slices.Equal(p.ExemptMarks(), want) {
		t.Errorf("exempt marks %v, want %v", p.ExemptMarks(), want)
	}
}

func TestEveryShiftKeepsEightBits(t *testing.T) {
	for shift := uint8(0); shift <= 24; shift += 4 {
		if m := (Mark{Shift: shift}); bits.OnesCount32(m.Mask()) != 8 || m.Mask()&m.ClassMask() != m.ClassMask() {
			t.Errorf("shift %d: mask %#x, class %#x", shift, m.Mask(), m.ClassMask())
		}
	}
}

func TestDefaultLikeRoutes(t *testing.T) {
	for p, want := range map[string]bool{
		"0.0.0.0/0": true, "0.0.0.0/1": true, "128.0.0.0/1": true, "172.0.0.0/7": true,
		"10.0.0.0/8": false, "11.0.0.0/8": false, "224.0.0.0/4": false, "240.0.0.0/4": false,
		"::/0": true, "::/1": true, "2000::/3": true, "200::/7": true, "2600::/12": true, "f000::/4": true,
		"2001::/16": false, "fc00::/7": false, "fd00::/8": false, "fe80::/10": false, "ff00::/8": false,
	} {
		if got := defaultLike(netip.MustParsePrefix(p)); got != want {
			t.Errorf("defaultLike(%s) = %v", p, got)
		}
	}
}

func TestOnionRangesMissRoutesAddressesAndExclusions(t *testing.T) {
	for _, c := range []struct {
		name     string
		host     func(*builder) *builder
		excluded []string
		v4, v6   string
	}{
		{"plain", nil, nil, "10.192.0.0/10", "fd74:6f72:f00::/40"},
		{"a route inside", func(b *builder) *builder { return b.route("10.200.0.0/16", "eth1") }, nil, "10.128.0.0/10", "fd74:6f72:f00::/40"},
		{"an uplink's route inside", func(b *builder) *builder { return b.route("10.200.0.0/16", "eth0") }, nil, "10.128.0.0/10", "fd74:6f72:f00::/40"},
		{"an address inside", func(b *builder) *builder { return b.addr("eth0", "10.255.1.2/30") }, nil, "10.128.0.0/10", "fd74:6f72:f00::/40"},
		{"an address of lo inside", func(b *builder) *builder { return b.addr("lo", "10.255.255.1/32") }, nil, "10.128.0.0/10", "fd74:6f72:f00::/40"},
		{"every quarter of 10/8 touched", func(b *builder) *builder {
			return b.route("10.0.0.0/24", "eth1").route("10.64.0.0/24", "eth1").route("10.128.0.0/24", "eth1").route("10.192.0.0/24", "eth1")
		}, nil, "10.224.0.0/11", "fd74:6f72:f00::/40"},
		{"10/8 routed", func(b *builder) *builder { return b.route("10.0.0.0/8", "eth1") }, nil, "172.16.0.0/12", "fd74:6f72:f00::/40"},
		{"10/8 excluded", nil, []string{"10.0.0.0/8"}, "172.16.0.0/12", "fd74:6f72:f00::/40"},
		{"all private space excluded", nil, []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"}, "198.18.0.0/15", "2001:2::/48"},
		{"all candidates excluded", nil, []string{"10.0.0.0/8", "172.16.0.0/12", "198.18.0.0/15", "100.64.0.0/10", "2001::/16", "fc00::/7"},
			"10.192.0.0/10", "fd74:6f72:f00::/40"},
		{"all ULA routed", func(b *builder) *builder { return b.route("fc00::/7", "eth1") }, nil, "10.192.0.0/10", "2001:2::/48"},
		{"default routes touch nothing", func(b *builder) *builder { return b.route("8.0.0.0/5", "eth0").route("::/0", "eth0") }, nil,
			"10.192.0.0/10", "fd74:6f72:f00::/40"},
	} {
		b := homeRouter(t)
		if c.host != nil {
			b = c.host(b)
		}
		cfg := wish("eth1")
		cfg.Rules = config.DirectPrefixes(config.KindDestination, prefixList(c.excluded...)...)
		p, err := Make(cfg, b.Host)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.Onion4.String() != c.v4 || p.Onion6.String() != c.v6 {
			t.Errorf("%s: %s and %s, want %s and %s", c.name, p.Onion4, p.Onion6, c.v4, c.v6)
		}
	}
}

func TestEveryOnionCandidateIsOneAUserMayName(t *testing.T) {
	for i, p := range slices.Concat(onionCandidates4, onionCandidates6) {
		c := wish("eth1")
		if i < len(onionCandidates4) {
			c.Tor.Onion4 = p
		} else {
			c.Tor.Onion6 = p
		}
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestNamedUplinkReplacesAnUnseenOne(t *testing.T) {
	b := homeRouter(t)
	b.Routes = append(b.Routes, Route{Dst: netip.MustParsePrefix("::/0"), Index: 42, Table: 7})
	p, err := Make(uplinkWish("eth0"), b.Host)
	if err != nil || len(p.Uplinks) != 1 || p.Uplinks[0].Name != "eth0" {
		t.Errorf("uplinks %v, %v", p, err)
	}
}

func TestLoopbackIsNoUplink(t *testing.T) {
	p, err := Make(wish("eth1"), homeRouter(t).routeIn(100, "0.0.0.0/0", "lo").Host)
	if err != nil || len(p.Uplinks) != 1 || p.Uplinks[0].Name != "eth0" {
		t.Errorf("uplinks of %v, %v", p, err)
	}
}

func TestLocalAddrsAreUniqueAndHaveBroadcastsWhereSubnetsDo(t *testing.T) {
	b := newHost(t).link("a", "").link("b", "").
		addr("a", "10.0.0.1/30", "10.0.1.0/31", "fe80::1/64").
		addr("b", "10.0.2.1/32", "172.16.9.9/12", "fe80::1/64")
	var got []string
	for _, a := range localAddrs(b.Host) {
		got = append(got, a.String())
	}
	want := []string{"10.0.0.0", "10.0.0.1", "10.0.0.3", "10.0.1.0", "10.0.2.1", "172.16.0.0", "172.16.9.9", "172.31.255.255", "fe80::1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOnionRangesMissExcludedSources(t *testing.T) {
	cfg := wish("eth1")
	cfg.Rules = config.DirectPrefixes(config.KindSource, prefixList("10.200.0.0/16")...)
	p, err := Make(cfg, homeRouter(t).Host)
	if err != nil || p.Onion4.String() != "10.128.0.0/10" {
		t.Errorf("plan %v, %v", p, err)
	}
}

func TestVethAndTunnelsAreNoTrunks(t *testing.T) {
	b := homeRouter(t).link("veth0", "veth").parent("veth0", "eth1").link("gre1", "gre").parent("gre1", "eth1")
	if _, err := Make(wish("eth1"), b.Host); err != nil {
		t.Error(err)
	}
}

func TestReservedHoldsNoPublicHost(t *testing.T) {
	in := func(s string) bool {
		a := netip.MustParseAddr(s)
		return slices.ContainsFunc(Reserved(), func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for _, s := range []string{"1.1.1.1", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.20.0.1", "223.255.255.255",
		"2606:4700::1", "2001:4860:4860::8888", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808::1"} {
		if in(s) {
			t.Errorf("%s is taken for reserved", s)
		}
	}
	for _, s := range []string{"10.1.2.3", "100.64.0.1", "169.254.1.1", "192.168.0.1", "224.0.0.251", "255.255.255.255",
		"::", "::1", "::ffff:8.8.8.8", "100::1", "2001:db8::1", "fd00::1", "fe80::1", "ff02::1"} {
		if !in(s) {
			t.Errorf("%s is not reserved", s)
		}
	}
}

func TestReservedIsSortedAndDisjoint(t *testing.T) {
	list := Reserved()
	if merged := config.MergePrefixes(list); !slices.Equal(merged, list) {
		t.Errorf("merged and sorted it reads %v", merged)
	}
	list[0] = netip.Prefix{}
	if !Reserved()[0].IsValid() {
		t.Error("a caller changed the list of all others")
	}
}

func TestEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"eth1", "eth1", 0}, {"eth1", "eth11", 1}, {"ehh1", "eth1", 1}, {"", "lo", 2}, {"wlan0", "eth0", 4}} {
		if got := edits(c.a, c.b); got != c.want || edits(c.b, c.a) != c.want {
			t.Errorf("edits(%s, %s) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
