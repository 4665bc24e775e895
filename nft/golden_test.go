package nft

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata from what Apply makes")

// build is what Apply writes.
func build(p *plan.Plan) (*ruleset, error) { return builder{Plan: p}.build() }

// minimalPlan is a plan with one LAN and nothing that is optional.
func minimalPlan() *plan.Plan {
	return &plan.Plan{
		Mark:    plan.Mark{Shift: 24},
		LANs:    []plan.LAN{{Name: "lan0"}},
		Ports:   plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054},
		Inbound: true,
	}
}

// fullPlan has two LANs, both families and subnets that overlap.
func fullPlan() *plan.Plan {
	p := minimalPlan()
	p.LANs = []plan.LAN{{Name: "lan1"}, {Name: "lan0", Addrs: []netip.Prefix{
		netip.MustParsePrefix("192.168.50.1/24"), netip.MustParsePrefix("192.168.50.2/24"),
		netip.MustParsePrefix("192.168.50.129/25"), netip.MustParsePrefix("fd50::1/64"),
	}}}
	p.Onion4 = netip.MustParsePrefix("10.192.0.0/10")
	p.Onion6 = netip.MustParsePrefix("fd7a:6f6e:696f::/48")
	for _, s := range []struct{ name, prefix string }{
		{"lan0", "192.168.50.0/24"},
		{"lan0", "192.168.50.128/25"},
		{"lan0", "192.168.50.0/24"},
		{"lan0", "fd50::1/64"},
		{"lan0", "2001:db8:50::/64"},
		{"lan1", "192.168.60.0/24"},
		{"lan1", "192.168.50.128/25"},
		{"docker0", "172.16.7.0/24"},
		{"docker0", "172.16.7.9/32"},
	} {
		p.Local = append(p.Local, plan.LocalSubnet{Name: s.name, Prefix: netip.MustParsePrefix(s.prefix)})
	}
	return p
}

func marksPlan() *plan.Plan {
	p := fullPlan()
	p.Rules = config.DirectMarks(config.Mark{Value: 0x1, Mask: 0xff}, config.Mark{Value: 0x100, Mask: 0xffffffff})
	return p
}

func shiftPlan() *plan.Plan {
	p := marksPlan()
	p.Mark.Shift = 16
	return p
}

func closedPlan() *plan.Plan {
	p := minimalPlan()
	p.Inbound = false
	return p
}

func noLocalPlan() *plan.Plan {
	p := fullPlan()
	p.LocalMode = config.LocalNone
	return p
}

func severalTorsPlan() *plan.Plan {
	p := fullPlan()
	p.Instances = 3
	p.Client = clientPlan().Client
	return p
}

func awaitingPlan() *plan.Plan {
	p := minimalPlan()
	p.Waiting, p.Patterns = []string{"eth7"}, []string{"wlan*"}
	p.TimeServer = true
	return p
}

func tproxyPlan() *plan.Plan {
	p := fullPlan()
	p.TProxy = true
	p.LANs[1].Prefixes = []netip.Prefix{netip.MustParsePrefix("192.168.50.0/24"), netip.MustParsePrefix("fd50::/64"), netip.MustParsePrefix("fe80::/10")}
	return p
}

var goldens = []struct {
	name string
	plan func() *plan.Plan
}{
	{"minimal", minimalPlan},
	{"two-lans", fullPlan},
	{"exempt-marks", marksPlan},
	{"mark-shift-16", shiftPlan},
	{"inbound-off", closedPlan},
	{"local-none", noLocalPlan},
	{"awaited", awaitingPlan},
	{"several-tors", severalTorsPlan},
	{"tproxy", tproxyPlan},
	{"client", clientPlan},
	{"client-exec", clientExecPlan},
	{"client-and-lans", clientAndLANsPlan},
}

// TestApplyListsAsTheGoldenFile holds the rules that Go builds against a file
// that nft can load and people can read.
func TestApplyListsAsTheGoldenFile(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			needLookUps(t, g.plan())
			enterFreshNetNS(t)
			if err := Apply(g.plan()); err != nil {
				t.Fatal(err)
			}
			forgetOldFlows(t)
			got := nft(t, "", "-s", "list", "ruleset")
			file := filepath.Join("testdata", g.name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := readFile(t, file); got != want {
				t.Errorf("Apply lists as\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestGoldenFileLoadsAndListsAsItself(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			needLookUps(t, g.plan())
			enterFreshNetNS(t)
			want := readFile(t, filepath.Join("testdata", g.name+".nft"))
			nft(t, want, "-f", "-")
			if got := nft(t, "", "-s", "list", "ruleset"); got != want {
				t.Errorf("after nft -f it lists as\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
