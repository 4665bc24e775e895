package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

func destinations(t *testing.T, words ...string) []config.Rule {
	t.Helper()
	var out []config.Rule
	for _, w := range words {
		match, policy, _ := strings.Cut(w, " ")
		policy, life, _ := strings.Cut(policy, " ")
		r := config.Rule{Entry: config.Entry{Kind: config.KindDestination, Client: true, Prefix: netip.MustParsePrefix(match)}, Policy: config.Policy(policy)}
		if life != "" {
			ends, err := time.ParseDuration(life)
			if err != nil {
				t.Fatal(err)
			}
			r.Ends = ends
		}
		out = append(out, r)
	}
	return out
}

func TestOpeningsAreDisjointAndTheMostSpecificRuleCounts(t *testing.T) {
	for _, c := range []struct {
		rules string
		want  string
	}{
		{"", ""},
		{"51.0.0.0/8 direct", "51.0.0.0/8"},
		{"51.0.0.0/8 tor", ""},
		{"51.0.0.0/30 direct, 51.0.0.1/32 tor", "51.0.0.0/32, 51.0.0.2/31"},
		{"51.0.0.0/30 direct, 51.0.0.0/31 tor, 51.0.0.1/32 direct", "51.0.0.1/32, 51.0.0.2/31"},
		{"51.0.0.0/30 direct, 51.0.0.0/31 direct 1h", "51.0.0.0/31, 51.0.0.2/31"},
		{"51.0.0.0/30 direct 1h, 51.0.0.0/31 direct", "51.0.0.0/31, 51.0.0.2/31 1h0m0s"},
		{"51.0.0.0/30 direct 1h, 51.0.0.0/31 direct 2h", "51.0.0.0/31 2h0m0s, 51.0.0.2/31 1h0m0s"},
		{"51.0.0.0/30 direct 2h, 51.0.0.0/31 direct 1h", "51.0.0.0/31 2h0m0s, 51.0.0.2/31 2h0m0s"},
		{"51.0.0.0/30 direct, 51.0.0.0/31 tor 1h", "51.0.0.2/31"},
		{"2a0e::/126 direct, 2a0e::2/127 tor, 0.0.0.0/0 direct", "0.0.0.0/0, 2a0e::/127"},
	} {
		var rules []config.Rule
		if c.rules != "" {
			rules = destinations(t, strings.Split(c.rules, ", ")...)
		}
		var got []string
		for _, o := range openings(rules) {
			text := o.Prefix.String()
			if o.Ends != 0 {
				text += " " + o.Ends.String()
			}
			got = append(got, text)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: let out %v, want %s", c.rules, got, c.want)
		}
	}
}

// TestAnOpeningEndsOverWhatTakesItBack, though what is around it lasts.
func TestAnOpeningEndsOverWhatTakesItBack(t *testing.T) {
	rules := destinations(t, "51.0.0.0/30 direct", "51.0.0.0/31 direct 1h")
	rules[1].Beneath = &config.Rule{Policy: config.PolicyTor}
	got := openings(rules)
	if len(got) != 2 || got[0].Prefix != rules[1].Prefix || got[0].Ends != time.Hour || got[1].Ends != 0 {
		t.Errorf("let out %v, want the first half for an hour and the other for ever", got)
	}
}

// TestOpeningsLetOutWhatTheNarrowestRuleSays compares each address of a small range with
// the narrowest rule that covers it.
func TestOpeningsLetOutWhatTheNarrowestRuleSays(t *testing.T) {
	for seed := range 200 {
		var words []string
		for i := range 6 {
			n := seed*7919 + i*104729
			bits := 24 + n%9
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{51, 0, 0, byte(n / 9)}), bits).Masked()
			words = append(words, fmt.Sprintf("%s %s", p, []string{"direct", "tor"}[n/7%2]))
		}
		rules := destinations(t, words...)
		let := openings(rules)
		for host := range 256 {
			addr := netip.AddrFrom4([4]byte{51, 0, 0, byte(host)})
			want, bits := false, -1
			for _, r := range rules {
				if r.Prefix.Contains(addr) && r.Prefix.Bits() >= bits {
					want, bits = r.Policy == config.PolicyDirect, r.Prefix.Bits()
				}
			}
			covering := slices.DeleteFunc(slices.Clone(let), func(o Opening) bool { return !o.Prefix.Contains(addr) })
			if (len(covering) == 1) != want || len(covering) > 1 {
				t.Fatalf("%v: %s is let out by %v, want %v", words, addr, covering, want)
			}
		}
	}
}

func TestClientPlanHasItsOwnRulesOnly(t *testing.T) {
	cfg := wish("eth1")
	cfg.Client.Enable = true
	cfg.Rules = append(config.DirectPrefixes(config.KindDestination, netip.MustParsePrefix("51.20.0.0/16")), config.Direct(config.Entry{Kind: config.KindUser, Client: true, User: "_chrony"}))
	cfg.Rules = append(cfg.Rules, destinations(t, "51.30.0.0/16 direct")...)
	h := homeRouter(t).Host
	h.Identities.Users = map[string]uint32{"_chrony": 117}
	p, err := Make(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Rules; len(got) != 1 || got[0].Prefix.String() != "51.20.0.0/16" {
		t.Errorf("LANs have the rules %v", got)
	}
	c := p.Client
	if len(c.Direct) != 1 || c.Direct[0].Prefix.String() != "51.30.0.0/16" || len(c.Identities) != 1 || c.Identities[0].User != 117 {
		t.Errorf("this machine has %+v", c)
	}
	cfg.Client.Enable = false
	if p, err := Make(cfg, h); err != nil || p.Client != nil {
		t.Errorf("without client mode this machine has %+v, %v", p.Client, err)
	}
}

func TestClientNeedsNoLAN(t *testing.T) {
	cfg := wish()
	cfg.Client.Enable = true
	p, err := Make(cfg, homeRouter(t).Host)
	if err != nil || p.Client == nil || len(p.LANs) != 0 || len(p.Client.Local) == 0 {
		t.Errorf("plan %+v, %v", p, err)
	}
}

// TestThePlanSaysWhereTheProxyPastTorIs so that what runs by Tor is kept from it.
func TestThePlanSaysWhereTheProxyPastTorIs(t *testing.T) {
	var cfg config.Config
	cfg.Client.Enable, cfg.Client.ProxyPort = true, config.DefaultProxyPort
	if got := client(cfg, Host{}, nil).ProxyPort; got != config.DefaultProxyPort {
		t.Errorf("it is at port %d, want %d", got, config.DefaultProxyPort)
	}
}

// TestNeighboursAreWhatNoOtherHostLeadsTo, public or not.
func TestNeighboursAreWhatNoOtherHostLeadsTo(t *testing.T) {
	b := newHost(t).link("eth0", "").link("wg0", "wireguard").
		addr("eth0", "2600:9::1/64", "198.51.100.7/24", "fe80::a/64").addr("wg0", "fd00:9::1/64").
		route("::/0", "eth0").route("2000::/3", "eth0").route("2600:9::/64", "eth0").route("2600:a::/64", "eth0").route("2600:b::/64", "eth0")
	b.Routes[len(b.Routes)-1].By = true
	var got []string
	for _, s := range onLink(b.Host) {
		got = append(got, s.Prefix.String()+" "+s.Name)
	}
	if want := []string{"2600:9::/64 eth0", "2600:a::/64 eth0"}; !slices.Equal(got, want) {
		t.Errorf("neighbours are in %v, want %v", got, want)
	}
}
