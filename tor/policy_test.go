package tor

import (
	"net/netip"
	"testing"
)

func TestPoliciesAreReadAsTorDoes(t *testing.T) {
	tests := map[string]struct {
		lines    []string
		accepted []string
		rejected []string
		open     bool
	}{
		"none":                  {nil, []string{"10.0.0.0/8", "fd00::/8"}, nil, true},
		"ours":                  {[]string{"accept 192.168.7.0/24", "accept6 [fd07::]/64", "reject *"}, []string{"192.168.7.0/25", "fd07::/64"}, []string{"192.168.0.0/16", "192.168.8.0/24", "fd07:0:0:1::/64"}, false},
		"on one line":           {[]string{"accept 10.0.0.0/8,accept [fd00::]/8:*, reject *:*"}, []string{"10.9.0.0/16", "fd00::/64"}, []string{"192.168.0.0/16"}, false},
		"first match":           {[]string{"reject 10.1.0.0/16", "accept *"}, []string{"10.2.0.0/16"}, []string{"10.1.2.0/24", "10.0.0.0/8"}, true},
		"open at the end":       {[]string{"reject 10.1.0.0/16"}, []string{"192.168.0.0/24"}, []string{"10.1.0.0/16"}, true},
		"one family open":       {[]string{"accept private:*", "reject *4"}, []string{"192.168.0.0/24", "fd00::/64"}, []string{"9.0.0.0/24"}, true},
		"star in accept6":       {[]string{"accept6 *", "reject *"}, []string{"fd00::/64"}, []string{"10.0.0.0/8"}, true},
		"families one by one":   {[]string{"reject *6", "reject *4"}, nil, []string{"10.0.0.0/8", "fd00::/8"}, false},
		"single addresses":      {[]string{"accept 10.0.0.1:80", "accept6 [fd00::1]", "accept6 [fd00::2]:80", "reject *"}, []string{"10.0.0.1/32", "fd00::1/128", "fd00::2/128"}, []string{"10.0.0.0/31"}, false},
		"v6 without brackets":   {[]string{"accept6 fd00::/8", "reject *"}, []string{"fd00::/16"}, nil, false},
		"accept after a reject": {[]string{"reject *", "accept 10.0.0.0/8"}, nil, []string{"10.0.0.0/8"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rules, err := parsePolicy(tt.lines)
			if err != nil {
				t.Fatal(err)
			}
			for want, list := range map[bool][]string{true: tt.accepted, false: tt.rejected} {
				for _, p := range list {
					if got := accepts(rules, netip.MustParsePrefix(p)); got != want {
						t.Errorf("%s accepted: %v", p, got)
					}
				}
			}
			if open(rules) != tt.open {
				t.Errorf("open: %v", !tt.open)
			}
		})
	}
	for _, line := range []string{"allow *", "accept 10.0.0.0/255.0.0.0", "accept", "accept nowhere"} {
		if _, err := parsePolicy([]string{line}); err == nil {
			t.Errorf("%q was understood", line)
		}
	}
}
