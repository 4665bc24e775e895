package router

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// TestExplainAdvisesWhatHasAnEffect: of a device with a rule of its own only that helps, and no
// rule for sources is about an address of the link.
func TestExplainAdvisesWhatHasAnEffect(t *testing.T) {
	mac := config.MAC{2, 0, 0, 0, 0, 9}
	device := func(policy config.Policy) *config.Rule {
		return &config.Rule{Entry: config.Entry{Kind: config.KindDevice, MAC: mac}, Policy: policy, Runtime: true}
	}
	for _, c := range []struct {
		name, from string
		reason     abi.Reason
		rule       *config.Rule
		want, not  string
	}{
		{"kept with Tor", "192.168.50.12", abi.ReasonTCP, device(config.PolicyTor), "device allow kitchen-tv --for 10m", "--source"},
		{"kept with Tor", "192.168.50.12", abi.ReasonTCP, device(config.PolicyTor), "exclude add --port", "exclude del"},
		{"direct", "192.168.50.12", abi.ReasonDirectDevice, device(config.PolicyDirect), "device tor kitchen-tv", "exclude"},
		{"blocked", "192.168.50.12", abi.ReasonBlockedDevice, device(config.PolicyBlock), "device tor kitchen-tv", "exclude"},
		{"without a rule", "192.168.50.12", abi.ReasonTCP, nil, "exclude add --source 192.168.50.12", "device"},
		{"of the link", "fe80::9", abi.ReasonTCP, nil, "exclude add --port", "--source"},
	} {
		x := &explained{state: &State{}, From: netip.MustParseAddr(c.from), reason: c.reason, rules: ruleSearch{rule: c.rule}}
		x.state.Config.Devices = map[string]config.MAC{"kitchen-tv": mac}
		x.To, x.Protocol, x.DstPort = netip.MustParseAddr("51.20.0.80"), 6, 443
		var said []string
		for _, a := range x.change() {
			said = append(said, a.Command)
		}
		if all := strings.Join(said, "; "); !strings.Contains(all, c.want) || strings.Contains(all, c.not) {
			t.Errorf("%s: %s, want %s and no %s", c.name, all, c.want, c.not)
		}
	}
}
