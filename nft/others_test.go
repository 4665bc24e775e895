package nft

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// toRouter is what a device's connection looks like when it has been redirected.
func toRouter(port uint16) OtherPacket {
	return OtherPacket{
		Interface: "lan0", Index: 7, Protocol: unix.IPPROTO_TCP, Redirected: true, Mark: 0x04000000,
		Src: netip.MustParseAddrPort(client4 + ":40000"), Dst: netip.AddrPortFrom(netip.MustParseAddr(lan4), port),
	}
}

// TestOthersChainsAreJudgedWithoutAPacket: of each of these input chains it is known whether it
// stops a redirected connection, or said that it is not.
func TestOthersChainsAreJudgedWithoutAPacket(t *testing.T) {
	for name, c := range map[string]struct{ rules, stops, unknown string }{
		"none":                     {},
		"open":                     {rules: "type filter hook input priority 0; policy accept; tcp dport 22 accept"},
		"closed":                   {rules: "type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept", stops: "inet fw in"},
		"the LAN is trusted":       {rules: `type filter hook input priority 0; policy drop; iifname "lan0" accept`},
		"another LAN is trusted":   {rules: `type filter hook input priority 0; policy drop; iifname "lan1" accept`, stops: "inet fw in"},
		"all but the WAN":          {rules: `type filter hook input priority 0; policy drop; iifname != "wan0" accept`},
		"by a wildcard":            {rules: `type filter hook input priority 0; policy drop; iifname "lan*" accept`},
		"some ports":               {rules: "type filter hook input priority 0; policy drop; tcp dport { 22, 9000-9100 } accept"},
		"other ports":              {rules: "type filter hook input priority 0; policy drop; tcp dport { 22, 80-90 } accept", stops: "inet fw in"},
		"what was translated":      {rules: "type filter hook input priority 0; policy drop; ct status dnat accept"},
		"a set of sources":         {rules: "type filter hook input priority 0; policy drop; ip saddr 192.168.0.0/16 accept"},
		"another set":              {rules: "type filter hook input priority 0; policy drop; ip saddr { 10.0.0.0/8, 172.16.0.0/12 } accept", stops: "inet fw in"},
		"a map of interfaces":      {rules: `type filter hook input priority 0; policy drop; iifname vmap { "lan0" : jump of_lan, "wan0" : drop }`},
		"a map without it":         {rules: `type filter hook input priority 0; policy drop; iifname vmap { "wan0" : jump of_lan }`, stops: "inet fw in"},
		"refused at the end":       {rules: "type filter hook input priority 0; policy accept; tcp dport 22 accept; reject", stops: "inet fw in"},
		"back and on":              {rules: "type filter hook input priority 0; policy drop; jump nothing; jump of_lan"},
		"not back from goto":       {rules: "type filter hook input priority 0; policy drop; goto nothing; accept", stops: "inet fw in"},
		"a limit":                  {rules: "type filter hook input priority 0; policy drop; limit rate 1/second accept", unknown: "inet fw in"},
		"a limit before an accept": {rules: "type filter hook input priority 0; policy drop; limit rate 1/second accept; accept"},
		"a hash of an address":     {rules: "type filter hook input priority 0; policy drop; fib saddr . iif oif missing drop; accept", unknown: "inet fw in"},
		"UDP alone":                {rules: "type filter hook input priority 0; policy drop; udp dport 9040 accept", stops: "inet fw in"},
		"nat is none":              {rules: "type nat hook input priority 0; policy accept; tcp dport 22 accept"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			enterFreshNetNS(t)
			if c.rules != "" {
				load(t, "table inet fw {\n chain nothing { counter; }\n chain of_lan { tcp dport 9040 accept; }\n chain in { "+c.rules+"; }\n}")
			}
			load(t, "table inet "+plan.Table+" { chain closed { type filter hook input priority 0; policy drop; }; }")
			others, err := ReadOthers()
			if err != nil {
				t.Fatal(err)
			}
			fate := others.Delivered(toRouter(9040))
			if strings.Join(fate.Stopping, ",") != c.stops || strings.Join(fate.Unknown, ",") != c.unknown {
				t.Errorf("it is stopped by %q, and perhaps by %q", fate.Stopping, fate.Unknown)
			}
			if fate := others.Forwarded(toRouter(9040)); len(fate.Stopping)+len(fate.Unknown) > 0 {
				t.Errorf("forwarded: %+v", fate)
			}
		})
	}
}

// TestWhatIsForwardedIsJudgedByForwardChains: as Docker has them, by family.
func TestWhatIsForwardedIsJudgedByForwardChains(t *testing.T) {
	t.Parallel()
	enterFreshNetNS(t)
	load(t, `table ip filter { chain DOCKER-USER { }; chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; oifname "docker0" accept; }; }`)
	others, err := ReadOthers()
	if err != nil {
		t.Fatal(err)
	}
	p := toRouter(443)
	p.Out, p.Dst, p.Redirected = "wan0", netip.MustParseAddrPort(outside4+":443"), false
	if fate := others.Forwarded(p); !slices.Equal(fate.Stopping, []string{"ip filter FORWARD"}) {
		t.Errorf("IPv4: %+v", fate)
	}
	p.Src, p.Dst = netip.MustParseAddrPort("["+client6+"]:40000"), netip.MustParseAddrPort("["+outside6+"]:443")
	if fate := others.Forwarded(p); len(fate.Stopping) > 0 {
		t.Errorf("IPv6: %+v", fate)
	}
	if !others.Has("DOCKER-USER") || others.Has("DOCKER-NOT") {
		t.Error("chains are not found by their names")
	}
}

// TestRulesThatWipeOurBitsAreFound: those that set their own bits alone are not.
func TestRulesThatWipeOurBitsAreFound(t *testing.T) {
	for rule, wipes := range map[string]bool{
		"meta mark set 0x100":                                   true,
		"meta mark set ct mark":                                 true,
		"meta mark set meta mark | 0x100":                       false,
		"meta mark set meta mark & 0xffff00ff | 0x100":          false,
		"meta mark set meta mark & 0x0000ffff":                  true,
		"ct mark set meta mark":                                 false,
		`iifname "wan0" jump other`:                             true,
		"meta priority set 0":                                   false,
		"meta mark set tcp dport map { 80 : 0x100, 443 : 0x2 }": true,
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			enterFreshNetNS(t)
			load(t, "table inet fw {\n chain other { meta mark set 0x1; }\n chain pre { type filter hook prerouting priority mangle; "+rule+"; }\n chain out { type filter hook output priority mangle; meta mark set 0x1; }\n}")
			others, err := ReadOthers()
			if err != nil {
				t.Fatal(err)
			}
			if got := others.Wiping(plan.Mark{Shift: 24}); len(got) > 0 != wipes {
				t.Errorf("%v", got)
			}
		})
	}
}
