package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Names of configurations that others are compared with, or that rows leave out.
const (
	Floor      = "floor"
	Plain      = "plain"
	Masquerade = "masquerade"
	NFT        = "nft"
	TC         = "tc"
	Torbpf     = "torbpf"
	XDP        = "xdp"
	TProxy     = "tproxy"
	Fast       = "fast"
	Frames     = "fast-xdp"
	Flowtable  = "flowtable"

	IPRule          = "ip-rule"
	WithoutNFT      = "without-nft"
	WithoutUplink   = "without-uplink"
	WithoutForward  = "without-forward"
	WithoutDelivery = "without-delivery"
)

// Config is what a router does with the packets of its LAN. A further mode of torbpf is
// a further configuration of the same rows.
type Config struct {
	Name  string
	Title string
	NAT   bool // what is forwarded has the router's source address
	Floor bool // nothing is forwarded: frames are dropped where they arrive, which is the price of sending them

	prepare func(context.Context, *Path) error
}

// Configs are all configurations; program is a built torbpf. A path of one that this kernel cannot
// have is an error that is kernel.ErrMissing.
func Configs(program string) []Config {
	return []Config{
		{Name: Floor, Title: "sender alone, XDP_DROP at the router", Floor: true},
		{Name: Plain, Title: "kernel: forwarding alone"},
		{Name: Masquerade, Title: "kernel: conntrack and masquerade", NAT: true, prepare: loadMasquerade},
		{Name: NFT, Title: "nft rules of networking.tor", NAT: true, prepare: loadNFT},
		{Name: TC, Title: "torbpf: tc program alone", NAT: true, prepare: attachAlone},
		{Name: Torbpf, Title: "torbpf: all layers", NAT: true, prepare: less(program)},
		{Name: XDP, Title: "torbpf: all layers, early refusal (XDP)", NAT: true, prepare: refuseEarly(program)},
		{Name: TProxy, Title: "torbpf: all layers, TCP handed to tor's socket", NAT: true, prepare: handTCP(program)},
		{Name: Fast, Title: "torbpf: all layers, fast path", NAT: true, prepare: permitFast(program)},
		{Name: Frames, Title: "torbpf: all layers, fast path, early refusal (XDP)", NAT: true, prepare: permitFast(program, "--early-refusal", "native")},
		{Name: Flowtable, Title: "torbpf: all layers, flowtable", NAT: true, prepare: accelerate(program)},
		{Name: IPRule, Title: "masquerade and an ip rule", NAT: true, prepare: addRule},
		{Name: WithoutNFT, Title: "torbpf without its nft table", NAT: true, prepare: less(program, func(ctx context.Context, p *Path) error {
			_, err := p.Router.Run(ctx, "nft", "delete", "table", "inet", "torbpf")
			return err
		})},
		{Name: WithoutUplink, Title: "torbpf without the uplink program", NAT: true, prepare: less(program, withoutLinks("uplink-"))},
		{Name: WithoutForward, Title: "torbpf without the forward guard", NAT: true, prepare: less(program, withoutLinks("forward"))},
		{Name: WithoutDelivery, Title: "torbpf without DNS and delivery guards", NAT: true, prepare: less(program, withoutLinks("dns", "delivery"))},
	}
}

// less attaches and takes away a layer.
func less(program string, layers ...func(context.Context, *Path) error) func(context.Context, *Path) error {
	return func(ctx context.Context, p *Path) error {
		if err := attachServing(ctx, p, program); err != nil {
			return err
		}
		for _, remove := range layers {
			if err := remove(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}
}

// refuseEarly attaches with the XDP program in the driver.
func refuseEarly(program string) func(context.Context, *Path) error {
	return func(ctx context.Context, p *Path) error {
		return attachServing(ctx, p, program, "--early-refusal", "native")
	}
}

// handTCP attaches with TCP handed to tor's socket, without NAT.
func handTCP(program string) func(context.Context, *Path) error {
	return func(ctx context.Context, p *Path) error {
		return attachServing(ctx, p, program, "--tcp-mode", "tproxy")
	}
}

func withoutLinks(prefixes ...string) func(context.Context, *Path) error {
	return func(_ context.Context, p *Path) error {
		return p.removeLinks(func(name string) bool {
			return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		})
	}
}

// addRule adds an ip rule to masquerading, as torbpf does where the kernel cannot have the
// forward guard. Routes are looked up by the list of rules then, and for the source of each
// packet, too.
func addRule(ctx context.Context, p *Path) error {
	if err := loadMasquerade(ctx, p); err != nil {
		return err
	}
	_, err := p.Router.Run(ctx, "ip", "rule", "add", "pref", "100", "iif", lan, "fwmark", "0x8000000/0x8000000", "blackhole")
	return err
}

// masqueradeRules are the user's own, as on any home router.
const masqueradeRules = `
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname "eth0" masquerade
	}
}
`

// nftRules do what those of networking.tor do in router mode: what is reserved, but not
// the virtual range, and what is excluded go direct; DNS and TCP are redirected; the rest
// is dropped by the policy of the forward chain.
const nftRules = `
define reserved = { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24,
	192.0.2.0/24, 192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, 198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/4, 240.0.0.0/4 }
table inet tor_router {
	chain nat {
		type nat hook prerouting priority -100;
		ip daddr != 10.64.0.0/10 ip daddr $reserved return
		ip daddr %[1]s return
		udp dport 53 redirect to :9053
		tcp flags syn / fin,syn,rst,ack redirect to :9040
	}
	chain filter {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		ip daddr $reserved accept
		ip daddr %[1]s accept
	}
}
`

func loadMasquerade(ctx context.Context, p *Path) error {
	return errors.Join(p.loadRules(ctx, masqueradeRules), p.keepFlows())
}

func loadNFT(ctx context.Context, p *Path) error {
	return errors.Join(loadMasquerade(ctx, p), p.loadRules(ctx, fmt.Sprintf(nftRules, Direct)))
}

func (p *Path) loadRules(ctx context.Context, rules string) error {
	cmd := p.Router.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load rules: %w: %s", err, out)
	}
	return nil
}

// keepFlows lets no flow of a row end between two of its turns.
func (p *Path) keepFlows() error {
	return p.Router.Sysctl("net.netfilter.nf_conntrack_udp_timeout=3600", "net.netfilter.nf_conntrack_udp_timeout_stream=3600",
		"net.netfilter.nf_conntrack_tcp_timeout_unacknowledged=3600", "net.netfilter.nf_conntrack_tcp_timeout_max_retrans=3600")
}
