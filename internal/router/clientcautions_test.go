package router

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// TestRulesOfThisMachineWithoutEffectAreTold: so are those that let out more than their writer
// may think, and those by a user or a program that nobody is meant by.
func TestRulesOfThisMachineWithoutEffectAreTold(t *testing.T) {
	p := &plan.Plan{Onion4: netip.MustParsePrefix("10.192.0.0/10"), Onion6: netip.MustParsePrefix("fd74:6f72:f00::/40")}
	for _, c := range []struct {
		kind        config.Kind
		entry, says string
	}{
		{config.KindDestination, "127.0.0.1", "never leaves this machine"}, {config.KindDestination, "10.192.0.1", "range of .onion names"},
		{config.KindPort, "443/tcp", "most of the web; for some only: --client --port 443/tcp@PREFIX"},
		{config.KindPort, "53/udp", "what this machine looks up is in clear then"},
		{config.KindInterface, "nope0", "is not there now"}, {config.KindInterface, "lo", "which is left alone"},
		{config.KindUser, "nobdy", "has no account here"}, {config.KindCgroup, "/nope.slice", "is not there now"},
		{config.KindProgram, "/nowhere/firefox", "is not there now"}, {config.KindProgram, "/", "is a directory"},
		{config.KindDestination, "169.254.169.254", ""}, {config.KindDestination, "9.9.9.9", ""}, {config.KindPort, "123/udp", ""},
		{config.KindInterface, "wg0", ""}, {config.KindMark, "0x100", ""},
		{config.KindUser, "root", ""}, {config.KindCgroup, "/here", ""}, {config.KindProgram, "/proc/self/exe", ""},
	} {
		entry, err := config.ParseEntry(c.kind, c.entry)
		must(t, err)
		entry.Client = true
		rules := config.Rules{config.Direct(entry)}
		p.Client = &plan.Client{All: true, Rules: rules, Exits: []plan.Exit{{Name: "nope0"}, {Name: "wg0", Index: 7}}}
		if c.says == "" {
			p.Client.Identities = []plan.Identity{{Kind: c.kind, Rule: 0}, {Kind: config.KindUser, Rule: -1}}
		}
		got := strings.Join(append(cautions(p.AllRules(), p), senderWarnings(p.Client)...), "; ")
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s %s: %q, want %q", c.kind, c.entry, got, c.says)
		}
		p.Client.All = false
		if got := strings.Join(cautions(rules, p), "; "); !strings.Contains(got, "torbpf attach --client") {
			t.Errorf("%s %s, and this machine is not on Tor: %q", c.kind, c.entry, got)
		}
	}
}

func TestAProxyThatHasNobodyToAskIsTold(t *testing.T) {
	resolver := netip.MustParseAddr("192.0.2.53")
	for _, c := range []struct {
		port     uint16
		resolver netip.Addr
		told     bool
	}{{0, netip.Addr{}, false}, {3128, resolver, false}, {3128, netip.Addr{}, true}} {
		w := proxyAdvice(&plan.Plan{Client: &plan.Client{ProxyPort: c.port}, Resolver: c.resolver})
		if (len(w) > 0) != c.told {
			t.Errorf("port %d, resolver %v: %v", c.port, c.resolver, w)
		}
	}
}
