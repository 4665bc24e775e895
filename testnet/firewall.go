package testnet

import (
	"context"
	"fmt"
	"strings"
)

// userRules are what a router's owner has of his own: masquerading and port
// forwards (with hairpin), nothing that filters. The tables bear ordinary names, so
// that a torbpf which touches other people's tables is caught.
func userRules(masqueradeV6 bool) string {
	rules := fmt.Sprintf(`
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr %[1]s tcp dport %[2]d dnat to 192.168.50.11
		ip daddr %[1]s udp dport %[3]d dnat to 192.168.50.11
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "eth0" masquerade
		ip saddr %[4]s ip daddr %[4]s masquerade
	}
}
`, WANRouter4, PortForwardTCP, PortForwardUDP, LAN4)
	if masqueradeV6 {
		rules += `
table ip6 nat {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "eth0" masquerade
	}
}
`
	}
	return rules
}

func (l *Lab) loadUserRules(ctx context.Context) error {
	cmd := l.Router.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(userRules(l.opts.MasqueradeV6))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load the router's own rules: %w: %s", err, out)
	}
	return nil
}
