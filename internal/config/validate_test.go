package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"odd but legal names": func(c *Config) { c.Interfaces = []string{"br-lan", "eth0.10", "wlan0_1", "15-characters-x"} },
		"every local mode":    func(c *Config) { c.Local = LocalNone },
		"lowest shift":        func(c *Config) { c.MarkShift = 0 },
		"system tor":          func(c *Config) { c.Tor.Mode, c.Tor.Binary = TorSystem, "" },
		"own torrc":           func(c *Config) { c.Tor.Torrc = "/etc/torbpf/torrc" },
		"no waiting":          func(c *Config) { c.Tor.Timeout = 0 },
		"smallest ranges": func(c *Config) {
			c.Tor.Onion4, c.Tor.Onion6 = netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("fd00::/104")
		},
		"widest ranges": func(c *Config) {
			c.Tor.Onion4, c.Tor.Onion6 = netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fc00::/7")
		},
		"everything, forced": func(c *Config) {
			c.Everything, c.Rules = true, DirectPrefixes(KindDestination, netip.MustParsePrefix("0.0.0.0/0"))
		},
		"TCP handed over, beside a mark of this machine's own": func(c *Config) {
			c.Tor.TCPMode = TCPTProxy
			c.Rules = DirectMarks(Mark{Value: 1, Mask: 0xff})
			c.Rules[0].Client = true
		},
	} {
		c := Default()
		change(&c)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		field, says string
		change      func(*Config)
	}{
		{"tor.tcp_mode", `"nat" is none of redirect, tproxy`, func(c *Config) { c.Tor.TCPMode = "nat" }},
		{"tor.tcp_mode", "take this machine off Tor (--client=false)", func(c *Config) { c.Tor.TCPMode, c.Client.Enable = TCPTProxy, true }},
		{"tor.tcp_mode", "the exclusion of mark 0x100 would not hold", func(c *Config) {
			c.Tor.TCPMode = TCPTProxy
			c.Rules = DirectMarks(Mark{Value: 0x100, Mask: FullMask})
		}},
		{"interfaces", "no interface name", func(c *Config) { c.Interfaces = []string{""} }},
		{"interfaces", "no interface name", func(c *Config) { c.Interfaces = []string{"sixteen-letters-"} }},
		{"interfaces", "no interface name", func(c *Config) { c.Interfaces = []string{"../eth0"} }},
		{"interfaces", "no interface name", func(c *Config) { c.Interfaces = []string{"eth0:1"} }},
		{"interfaces", "no interface name", func(c *Config) { c.Interfaces = []string{"a b"} }},
		{"interfaces", "no interface name", func(c *Config) { c.Interfaces = []string{`e"`} }},
		{"uplinks", "no interface name", func(c *Config) { c.Uplinks = []string{".."} }},
		{"uplinks", "eth1 is to be torified as well", func(c *Config) { c.Interfaces, c.Uplinks = []string{"eth1"}, []string{"eth1"} }},
		{"local", "connected, reserved, none", func(c *Config) { c.Local = "" }},
		{"mark_shift", "use 0, 4", func(c *Config) { c.MarkShift = 23 }},
		{"mark_shift", "use 0, 4", func(c *Config) { c.MarkShift = 28 }},
		{"tor.mode", "managed, system", func(c *Config) { c.Tor.Mode = "other" }},
		{"tor.binary", "is empty", func(c *Config) { c.Tor.Binary = "" }},
		{"tor.torrc", "relative", func(c *Config) { c.Tor.Torrc = "torrc" }},
		{"tor.torrc", "would be ignored", func(c *Config) { c.Tor.Mode, c.Tor.Torrc = TorSystem, "/torrc" }},
		{"tor.timeout", "negative", func(c *Config) { c.Tor.Timeout = -time.Second }},
		{"tor.trans_port", "is 0", func(c *Config) { c.Tor.TransPort = 0 }},
		{"tor.dns_port", "like tor.trans_port", func(c *Config) { c.Tor.DNSPort = c.Tor.TransPort }},
		{"tor.resolver_port", "like tor.dns_port", func(c *Config) { c.Tor.ResolverPort = c.Tor.DNSPort }},
		{"tor.dns_port", "is 53", func(c *Config) { c.Tor.DNSPort = 53 }},
		{"tor.instances", "a tor that runs already is one", func(c *Config) { c.Tor.Mode, c.Tor.Instances = TorSystem, 2 }},
		{"tor.instances", "is auto, but a tor that runs already is one", func(c *Config) { c.Tor.Mode, c.Tor.Instances = TorSystem, AutoInstances }},
		{"tor.instances", "is 17, and a mark has room to tell 16 apart", func(c *Config) { c.Tor.Instances = 17 }},
		{"tor.trans_port", "leaves no port for tor 1", func(c *Config) { c.Tor.TransPort, c.Tor.Instances = 65500, 2 }},
		{"tor.trans_port", "leaves no port for tor 6", func(c *Config) { c.Tor.TransPort, c.Tor.Instances = 65000, AutoInstances }},
		{"tor.trans_port", "so that of tor 2 is 9253 like tor.resolver_port", func(c *Config) {
			c.Tor.TransPort, c.Tor.ResolverPort, c.Tor.Instances = 9053+0, 9253, 3
			c.Tor.DNSPort = 9060
		}},
		{"tor.trans_port", "so that of tor 1 is 9140 like tor.dns_port: choose another", func(c *Config) { c.Tor.DNSPort, c.Tor.Instances = 9140, 2 }},
		{"tor.onion4", "did you mean 10.0.0.0/12?", func(c *Config) { c.Tor.Onion4, c.Tor.Instances = prefix("10.5.0.0/16"), 2 }},
		{"tor.onion6", "did you mean fd00::/100?", func(c *Config) { c.Tor.Onion6, c.Tor.Instances = prefix("fd00::/104"), AutoInstances }},
		{"tor.onion4", "wrong family", func(c *Config) { c.Tor.Onion4 = prefix("fd00::/40") }},
		{"tor.onion6", "wrong family", func(c *Config) { c.Tor.Onion6 = prefix("10.0.0.0/10") }},
		{"tor.onion4", "wrong family", func(c *Config) { c.Tor.Onion4 = netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 40) }},
		{"tor.onion4", "did you mean 10.192.0.0/10?", func(c *Config) { c.Tor.Onion4 = prefix("10.200.0.0/10") }},
		{"tor.onion4", "did you mean 10.5.0.0/16?", func(c *Config) { c.Tor.Onion4 = prefix("10.5.8.0/21") }},
		{"tor.onion6", "did you mean fd00::/104?", func(c *Config) { c.Tor.Onion6 = prefix("fd00::/105") }},
		{"tor.onion4", "private space", func(c *Config) { c.Tor.Onion4 = prefix("127.192.0.0/10") }},
		{"tor.onion4", "private space", func(c *Config) { c.Tor.Onion4 = prefix("8.0.0.0/7") }},
		{"tor.onion4", "private space", func(c *Config) { c.Tor.Onion4 = prefix("0.0.0.0/0") }},
		{"tor.onion6", "private space", func(c *Config) { c.Tor.Onion6 = prefix("fe80::/10") }},
		{"rules.destination", "--force", func(c *Config) { c.Rules = DirectPrefixes(KindDestination, prefix("::/0")) }},
		{"rules.source", "--force", func(c *Config) { c.Rules = DirectPrefixes(KindSource, prefix("0.0.0.0/0")) }},
		{"rules.destination", "0.0.0.0/1, 128.0.0.0/1 together would let everything past Tor", func(c *Config) {
			c.Rules = DirectPrefixes(KindDestination, prefix("0.0.0.0/1"), prefix("128.0.0.0/1"))
		}},
		{"rules.source", "--force", func(c *Config) {
			c.Rules = DirectPrefixes(KindSource, prefix("::/1"), prefix("8000::/1"))
		}},
		{"rules.destination", "--force", func(c *Config) { // what it leaves is nobody's
			c.Rules = DirectPrefixes(KindDestination, prefix("2000::/3"))
		}},
		{"rules.destination", "--force", func(c *Config) {
			c.Rules = DirectPrefixes(KindDestination, prefix("0.0.0.0/1"), prefix("128.0.0.0/2"), prefix("192.0.0.0/3"))
			c.Rules[0].Until = time.Unix(1<<32, 0)
		}},
		{"torbpf.toml:7", "no file may ask for that", func(c *Config) {
			c.Rules = DirectPrefixes(KindDestination, prefix("0.0.0.0/0"))
			c.Rules[0].Origin = "torbpf.toml:7"
		}},
		{"rules.cgroup", "cgroup / would let everything past Tor: torbpf detach switches Tor off; or insist with --force", func(c *Config) {
			c.Rules = Rules{Direct(Entry{Kind: KindCgroup, Client: true, Cgroup: "/"})}
		}},
		{"rules.destination", "invalid", func(c *Config) { c.Rules = DirectPrefixes(KindDestination, netip.Prefix{}) }},
		{"rules.source", "IPv4-mapped", func(c *Config) { c.Rules = DirectPrefixes(KindSource, prefix("::ffff:10.0.0.0/104")) }},
		{"rules.mark", "zero mask", func(c *Config) { c.Rules = DirectMarks(Mark{Value: 1}) }},
		{"rules.mark", "zero mark", func(c *Config) { c.Rules = DirectMarks(Mark{Mask: 1}) }},
		{"rules.destination", "direct, tor", func(c *Config) {
			c.Rules = Rules{{Entry: Entry{Kind: KindDestination, Prefix: prefix("10.0.0.0/8")}, Policy: PolicyBlock}}
		}},
		{"rules.interface", "is to be torified", func(c *Config) {
			c.Interfaces, c.Rules = []string{"eth1"}, Rules{Direct(Entry{Kind: KindInterface, Interface: "eth1"})}
		}},
		{"exclusions.lists", "at most 64", func(c *Config) {
			for i := range MaxLists + 1 {
				c.Rules = append(c.Rules, Direct(Entry{Kind: KindList, List: fmt.Sprintf("/lists/%d", i)}))
			}
		}},
		{"line 7", "is none of", func(c *Config) { c.Rules = Rules{{Origin: "line 7"}} }},
	} {
		cfg := Default()
		c.change(&cfg)
		err := cfg.Validate()
		var field *FieldError
		if !errors.As(err, &field) || !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, %q: got %v", c.field, c.says, err)
			continue
		}
		if field.Field != c.field || !strings.Contains(field.Problem, c.says) {
			t.Errorf("got %v, want %s to say %q", err, c.field, c.says)
		}
	}
}

func TestValidateReportsEveryProblem(t *testing.T) {
	cfg := Default()
	cfg.Local, cfg.MarkShift, cfg.Tor.DNSPort = "x", 1, 0
	err := cfg.Validate()
	for _, field := range []string{"local:", "mark_shift:", "tor.dns_port:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not mention %s", err, field)
		}
	}
}

// TestPartsAreNotEverything: halves of different families, of different kinds or of what
// different senders mean, and what rules say otherwise, leave something to Tor.
func TestPartsAreNotEverything(t *testing.T) {
	lower, upper := netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")
	ofClient := DirectPrefixes(KindDestination, upper)
	ofClient[0].Client = true
	tors := DirectPrefixes(KindDestination, upper)
	tors[0].Policy = PolicyTor
	for name, more := range map[string]Rules{
		"other family": DirectPrefixes(KindDestination, netip.MustParsePrefix("8000::/1")), "another kind": DirectPrefixes(KindSource, upper),
		"of this machine": ofClient, "Tor's": tors, "less": DirectPrefixes(KindDestination, netip.MustParsePrefix("128.0.0.0/2")),
	} {
		if rules := slices.Concat(DirectPrefixes(KindDestination, lower), more); rules.Everything() {
			t.Errorf("%s: %v are taken for everything", name, rules.Widest())
		}
	}
}
