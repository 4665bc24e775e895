package plan

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// refusal is a wish that Make must refuse, and how.
type refusal struct {
	name    string
	cfg     config.Config
	host    func(*builder) *builder // changes the home router
	kind    error
	subject string
	instead []string
	says    []string // parts of the message: what, why, next step
}

func TestMakeRefusesInterfaces(t *testing.T) {
	bridge := func(b *builder) *builder {
		return b.link("br0", "bridge").addr("br0", "10.1.0.1/24").link("p1", "").master("p1", "br0")
	}
	for _, c := range []refusal{
		{"none given", wish(), nil, ErrNoInterface, "", []string{"eth1"},
			[]string{"torbpf attach eth1"}},
		{"none given, several fit", wish(), bridge, ErrNoInterface, "", []string{"eth1", "br0"},
			[]string{"eth1, br0"}},
		{"none given, an uplink named", uplinkOnly("eth2"), func(b *builder) *builder { return b.link("eth2", "").addr("eth2", "192.0.2.1/24") },
			ErrNoInterface, "", []string{"eth1"}, nil},
		{"short and nothing like it", wish("et"), nil, ErrUnknownInterface, "et", []string{"eth1"}, nil},
		{"short and misspelt", wish("l0"), nil, ErrUnknownInterface, "l0", []string{"lo"}, nil},
		{"unknown", wish("enp3s0"), nil, ErrUnknownInterface, "enp3s0", []string{"eth1"},
			[]string{"no interface enp3s0", "these fit: eth1"}},
		{"a flag without its dashes, misspelt", wish("clinet"), nil, ErrUnknownInterface, "clinet", nil,
			[]string{"did you mean --client, for this machine itself?"}},
		{"misspelt", wish("ehh1"), nil, ErrUnknownInterface, "ehh1", []string{"eth1", "eth0"},
			[]string{"did you mean eth1 or eth0?"}},
		{"unknown uplink", uplinkWish("eth3"), nil, ErrUnknownInterface, "eth3", []string{"eth0", "eth1"},
			[]string{"no interface eth3"}},
		{"loopback", wish("lo"), nil, ErrLoopback, "lo", nil,
			[]string{"only this machine's own traffic"}},
		{"loopback as uplink", uplinkWish("lo"), nil, ErrLoopback, "lo", nil,
			[]string{"no uplink"}},
		{"default route", wish("eth0"), nil, ErrDefaultRoute, "eth0", []string{"eth1"},
			[]string{"the default route 0.0.0.0/0 (table 254)", "torbpf attach eth1", "--force"}},
		{"default route of another table", wish("eth1"), func(b *builder) *builder { return b.routeIn(100, "::/0", "eth1") },
			ErrDefaultRoute, "eth1", nil, []string{"::/0 (table 100)"}},
		{"default route in disguise", wish("eth1"), func(b *builder) *builder { return b.route("2000::/3", "eth1") },
			ErrDefaultRoute, "eth1", nil, []string{"in disguise, 2000::/3"}},
		{"two default routes, the whole one named", wish("eth1"), func(b *builder) *builder { return b.route("0.0.0.0/1", "eth1").route("0.0.0.0/0", "eth1") },
			ErrDefaultRoute, "eth1", nil, []string{"the default route 0.0.0.0/0"}},
		{"no address", wish("eth2"), func(b *builder) *builder { return b.link("eth2", "") },
			ErrNoAddress, "eth2", nil, []string{"eth2 has no address,", "ip addr add 192.168.50.1/24 dev eth2"}},
		{"only link-local", wish("eth2"), func(b *builder) *builder { return b.link("eth2", "").addr("eth2", "fe80::1/64") },
			ErrNoAddress, "eth2", nil, []string{"but a link-local one"}},
		{"second of two", wish("eth1", "lo"), nil, ErrLoopback, "lo", nil, nil},
	} {
		c.check(t)
	}
}

func TestMakeRefusesStackedInterfaces(t *testing.T) {
	on := func(b *builder) *builder { b.BridgeNF = true; return b }
	bridge := func(b *builder) *builder {
		return b.link("br0", "bridge").addr("br0", "10.1.0.1/24").master("eth1", "br0")
	}
	for _, c := range []refusal{
		{"bridge port", wish("eth1"), bridge, ErrEnslaved, "eth1", []string{"br0"},
			[]string{"eth1 is a port of bridge br0: torbpf attach br0"}},
		{"bond member", wish("eth1"), func(b *builder) *builder { return b.link("bond0", "bond").master("eth1", "bond0") },
			ErrEnslaved, "eth1", []string{"bond0"}, []string{"eth1 is a member of bond bond0: torbpf attach bond0"}},
		{"bond member below a bridge", wish("eth1"), func(b *builder) *builder {
			return b.link("bond0", "bond").link("br0", "bridge").master("eth1", "bond0").master("bond0", "br0")
		}, ErrEnslaved, "eth1", []string{"br0"}, []string{"a member of bond bond0: torbpf attach br0"}},
		{"bond member below a VRF", wish("eth1"), func(b *builder) *builder {
			return b.link("bond0", "bond").link("red", "vrf").master("eth1", "bond0").master("bond0", "red")
		}, ErrEnslaved, "eth1", []string{"bond0"}, []string{"attach bond0"}},
		{"team port", wish("eth1"), func(b *builder) *builder { return b.link("team0", "team").master("eth1", "team0") },
			ErrEnslaved, "eth1", []string{"team0"}, []string{"a port of team team0"}},
		{"in a VRF", wish("eth1"), func(b *builder) *builder { return b.link("red", "vrf").master("eth1", "red") },
			ErrEnslaved, "eth1", nil, []string{"in VRF red", "ip link set eth1 nomaster"}},
		{"master out of sight", wish("eth1"), func(b *builder) *builder { b.Links[2].Master = 77; return b },
			ErrEnslaved, "eth1", nil, []string{"interface 77", "nomaster"}},
		{"trunk", wish("eth1"), func(b *builder) *builder {
			return b.link("eth1.10", "vlan").parent("eth1.10", "eth1").link("guest", "vlan").parent("guest", "eth1")
		}, ErrTrunk, "eth1", []string{"eth1.10", "guest"}, []string{"trunk", "attach eth1.10 guest", "without a tag"}},
		{"macvlan parent", wish("eth1"), func(b *builder) *builder { return b.link("mv0", "macvlan").parent("mv0", "eth1") },
			ErrTrunk, "eth1", []string{"mv0"}, []string{"shared", "attach mv0"}},
		{"ipvlan parent", wish("eth1"), func(b *builder) *builder { return b.link("iv0", "ipvlan").parent("iv0", "eth1") },
			ErrTrunk, "eth1", []string{"iv0"}, nil},
		{"switch conduit", wish("eth1"), func(b *builder) *builder { return b.link("lan1", "dsa").parent("lan1", "eth1") },
			ErrTrunk, "eth1", []string{"lan1"}, []string{"conduit"}},
		{"bridge-nf on", wish("br0"), func(b *builder) *builder { return on(bridge(b)) },
			ErrBridgeNF, "br0", nil, []string{"br0 is a bridge", "run through nftables on the port already",
				"sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0", "without a bridge"}},
		{"bridge-nf on below a VLAN", wish("br0.5"), func(b *builder) *builder {
			return on(b.link("br0", "bridge").link("br0.5", "vlan").parent("br0.5", "br0").addr("br0.5", "10.1.0.1/24"))
		}, ErrBridgeNF, "br0.5", nil, []string{"above bridge br0"}},
	} {
		c.check(t)
	}
}

func TestMakeRefusesMarksAndRanges(t *testing.T) {
	onion := func(v4, v6 string) config.Config {
		c := wish("eth1")
		if v4 != "" {
			c.Tor.Onion4 = netip.MustParsePrefix(v4)
		}
		if v6 != "" {
			c.Tor.Onion6 = netip.MustParsePrefix(v6)
		}
		return c
	}
	system := onion("172.16.0.0/12", "")
	system.Tor.Mode = config.TorSystem
	exempt := wish("eth1")
	exempt.Rules = config.DirectMarks(config.Mark{Value: 0x10000000, Mask: 0xf0000000})
	for _, c := range []refusal{
		{"mark of a rule", wish("eth1"), func(b *builder) *builder { return b.rule(5210, 0x80000000, 0x80000000) },
			ErrMarkInUse, "0xff000000", []string{"20"}, []string{"the IPv4 rule at priority 5210 (fwmark 0x80000000/0x80000000)", "--mark-shift 20"}},
		{"every bit taken", wish("eth1"), func(b *builder) *builder { return b.rule(1, 0xff00, 0xfffffffe) },
			ErrMarkInUse, "0xff000000", nil, []string{"no eight bits", "ip rule"}},
		{"exempt mark", exempt, nil, ErrMarkInUse, "0xff000000", []string{"20"}, []string{"exempt mark 0x10000000/0xf0000000"}},
		{"range hits a route", onion("172.16.0.0/12", ""), func(b *builder) *builder { return b.route("172.20.1.0/24", "eth1") },
			ErrOnionRouted, "172.16.0.0/12", []string{"10.192.0.0/10"},
			[]string{"overlaps 172.20.1.0/24, routed by eth1", "leave --onion4 out or give it 10.192.0.0/10"}},
		{"range of a system tor hits a route", system, func(b *builder) *builder { return b.route("172.20.1.0/24", "eth1") },
			ErrOnionRouted, "172.16.0.0/12", []string{"10.192.0.0/10"}, []string{"put VirtualAddrNetworkIPv4 10.192.0.0/10 in the torrc"}},
		{"range hits an uplink's route", onion("172.16.0.0/12", ""), func(b *builder) *builder { return b.route("172.20.1.0/24", "eth0") },
			ErrOnionRouted, "172.16.0.0/12", []string{"10.192.0.0/10"}, nil},
		{"range hits an address", onion("192.168.0.0/16", ""), nil,
			ErrOnionRouted, "192.168.0.0/16", []string{"10.192.0.0/10"}, []string{"192.168.1.0/24, the subnet of eth1"}},
		{"IPv6 range hits a route", onion("", "fd00::/8"), func(b *builder) *builder { return b.route("fd12::/32", "eth1") },
			ErrOnionRouted, "fd00::/8", []string{"fd74:6f72:f00::/40"}, []string{"leave --onion6 out"}},
		{"nothing is free", wish("eth1"), func(b *builder) *builder {
			return b.route("10.0.0.0/8", "eth1").route("172.16.0.0/12", "eth1").route("198.18.0.0/15", "eth1").route("100.64.0.0/10", "eth1")
		}, ErrNoOnionRange, "10.192.0.0/10", nil, []string{"10.0.0.0/8 is routed by eth1"}},
		{"default route by an unseen interface", wish("eth1"), func(b *builder) *builder {
			b.Routes = append(b.Routes, Route{Dst: netip.MustParsePrefix("::/0"), Index: 42, Table: 7})
			return b
		}, ErrUnknownUplink, "::/0", nil, []string{"(table 7)", "interface 42", "--uplink"}},
	} {
		c.check(t)
	}
	if _, err := Make(exempt, homeRouter(t).Host); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("a mark that torbpf uses itself is no fault of the host's: %v", err)
	}
	if _, err := Make(wish("eth1"), homeRouter(t).rule(5210, 0x80000000, 0x80000000).Host); err == nil || errors.Is(err, config.ErrInvalid) {
		t.Errorf("a rule of the host's is no fault of the configuration's: %v", err)
	}
}

func uplinkOnly(uplink string) config.Config {
	c := wish()
	c.Uplinks = []string{uplink}
	return c
}

func uplinkWish(uplink string) config.Config {
	c := wish("eth1")
	c.Uplinks = []string{uplink}
	return c
}

func (c refusal) check(t *testing.T) {
	t.Helper()
	t.Run(c.name, func(t *testing.T) {
		b := homeRouter(t)
		if c.host != nil {
			b = c.host(b)
		}
		p, err := Make(c.cfg, b.Host)
		if p != nil {
			t.Errorf("made a plan beside %v", err)
		}
		var r *Refusal
		if !errors.As(err, &r) || !errors.Is(err, c.kind) {
			t.Fatalf("got %v, want a refusal of kind %q", err, c.kind)
		}
		if r.subject != c.subject || !slices.Equal(r.instead, c.instead) {
			t.Errorf("refuses %q, offers %v; want %q, %v", r.subject, r.instead, c.subject, c.instead)
		}
		for _, part := range c.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	})
}

func TestMakeRefusesInvalidConfig(t *testing.T) {
	c := wish("eth1")
	c.Tor.DNSPort = c.Tor.TransPort
	if p, err := Make(c, homeRouter(t).Host); p != nil || !errors.Is(err, config.ErrInvalid) {
		t.Errorf("Make = %v, %v", p, err)
	}
}

func TestForceOverridesNothingButTheDefaultRoute(t *testing.T) {
	for _, name := range []string{"lo", "gone"} {
		c := wish(name)
		c.Force = true
		if _, err := Make(c, homeRouter(t).Host); err == nil {
			t.Errorf("--force attached %s", name)
		}
	}
}

// TestARefusalSaysWhatToTypeApart: that is what follows its last colon.
func TestARefusalSaysWhatToTypeApart(t *testing.T) {
	for message, want := range map[string][]string{
		"eth1 is a port of bridge br0: torbpf attach br0":                                     {"eth1 is a port of bridge br0", "torbpf attach br0"},
		"eth1 is a trunk: its frames belong to eth1.10: torbpf attach eth1.10; untagged, too": {"eth1 is a trunk: its frames belong to eth1.10", "torbpf attach eth1.10", "untagged, too"},
		"there is no eth9: name another (these fit: eth1)":                                    {"there is no eth9", "name another (these fit: eth1)"},
		"nothing to be done": {"nothing to be done"},
	} {
		why, next := (&Refusal{message: message}).Parts()
		if got := append([]string{why}, next...); !slices.Equal(got, want) {
			t.Errorf("%q is taken apart into %q", message, got)
		}
	}
}
