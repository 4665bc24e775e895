package sentry

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
)

func TestPeersAreTheLANAndTheRouter(t *testing.T) {
	p := peers{
		prefixes: append([]netip.Prefix{netip.MustParsePrefix("169.254.7.0/24")}, lanPrefixes...),
		lans:     []string{"br-lan"},
	}
	for address, want := range map[string]bool{
		"10.66.0.0": true, "10.66.0.255": true, "10.66.1.0": false, "10.65.255.255": false,
		"fd66::1": true, "fd66::ffff:ffff:ffff:ffff": true, "fd66:0:0:1::": false,
		"127.0.0.1": true, "127.255.0.1": true, "::1": true,
		"fe80::1%br-lan": true, "fe80::1%eth0": false, "fe80::1": false, "fe80::1%3": false,
		"169.254.7.1": true, "169.254.8.1": false, "fd66::1%eth0": false,
		"0.0.0.0": false, "::": false, "8.8.8.8": false, "::ffff:10.66.0.1": false,
	} {
		if got := p.allowed(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: allowed = %v, want %v", address, got, want)
		}
	}
	if p.allowed(netip.Addr{}) {
		t.Error("nobody is allowed")
	}
}

func TestConfigSurvivesItsJourney(t *testing.T) {
	want := Config{
		Tors: []TorConfig{{Control: "unix:/run/tor/control", DNSPort: 1}, {Control: "unix:/run/tor-1/control", DNSPort: 3}}, ResolverPort: 2,
		LANPrefixes: lanPrefixes, LANs: []string{"eth1"}, GateFD: 3,
	}
	text, err := json.Marshal(want)
	must(t, err)
	var got Config
	must(t, json.Unmarshal(text, &got))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestIncompleteConfigIsRefused(t *testing.T) {
	whole := Config{Tors: []TorConfig{{DNSPort: 1}}, ResolverPort: 2}
	must(t, whole.validate())
	for name, change := range map[string]func(*Config){
		"no DNSPort":       func(c *Config) { c.Tors = []TorConfig{{DNSPort: 1}, {}} },
		"no tor":           func(c *Config) { c.Tors = nil },
		"no resolver port": func(c *Config) { c.ResolverPort = 0 },
		"empty prefix":     func(c *Config) { c.LANPrefixes = []netip.Prefix{{}} },
		"everyone":         func(c *Config) { c.LANPrefixes = []netip.Prefix{netip.MustParsePrefix("::/0")} },
	} {
		broken := whole
		change(&broken)
		if broken.validate() == nil {
			t.Errorf("%s is no error", name)
		}
	}
}
