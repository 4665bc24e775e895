package nft

import (
	"net/netip"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// clientPlan has all that a plan can say of what this machine itself sends, and no LAN.
func clientPlan() *plan.Plan {
	p := minimalPlan()
	p.LANs = nil
	p.Onion4 = netip.MustParsePrefix("10.192.0.0/10")
	p.Onion6 = netip.MustParsePrefix("fd7a:6f6e:696f::/48")
	p.Client = &plan.Client{All: true, Ephemeral: 32768, ProxyPort: config.DefaultProxyPort}
	for _, s := range []struct{ name, prefix string }{
		{"wan0", "192.168.99.0/24"},
		{"wan0", "fd99::/64"},
		{"dmz0", "172.16.7.0/24"},
	} {
		p.Client.Local = append(p.Client.Local, plan.LocalSubnet{Name: s.name, Prefix: netip.MustParsePrefix(s.prefix)})
	}
	p.Client.OnLink = []plan.LocalSubnet{{Name: "wan0", Prefix: netip.MustParsePrefix("2a0c:10::/64")}}
	for _, prefix := range []string{"51.20.0.0/16", "51.22.0.0/16", "255.255.255.0/24", "2a0e::/32"} {
		p.Client.Direct = append(p.Client.Direct, plan.Opening{Prefix: netip.MustParsePrefix(prefix)})
	}
	for _, e := range []config.Entry{
		{Kind: config.KindPort, Service: config.Service{Protocol: 17, Port: 53}, Prefix: netip.MustParsePrefix("10.8.0.1/32")},
		{Kind: config.KindPort, Service: config.Service{Protocol: 6, Port: 22}},
		{Kind: config.KindPort, Service: config.Service{Protocol: 6, Port: 22}, Prefix: netip.MustParsePrefix("51.23.0.0/16")},
		{Kind: config.KindPort, Service: config.Service{Protocol: config.ProtocolICMP}},
		{Kind: config.KindMark, Mark: config.Mark{Value: 0xca6c, Mask: 0x00ffffff}},
		{Kind: config.KindInterface, Interface: "wg0"},
	} {
		e.Client = true
		p.Client.Rules = append(p.Client.Rules, config.Direct(e))
	}
	p.Client.Rules[2].Policy = config.PolicyTor
	p.Client.Exits = []plan.Exit{{Name: "wg0", Rule: 5}}
	return p
}

// clientExecPlan is for `torbpf exec --tor` on a machine that is direct otherwise.
func clientExecPlan() *plan.Plan {
	p := clientPlan()
	p.Client = &plan.Client{ProxyPort: config.DefaultProxyPort}
	return p
}

// clientAndLANsPlan has both.
func clientAndLANsPlan() *plan.Plan {
	p := fullPlan()
	p.Client = &plan.Client{All: true, Ephemeral: 32768}
	p.LocalMode = config.LocalNone
	return p
}
