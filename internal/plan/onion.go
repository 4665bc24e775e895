package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// Tor hands out addresses of these ranges for .onion names. They must be
// addresses that clients send to their default gateway: nothing on-link for
// them, which private space disjoint from every route of the router is. The
// bigger, the harder a name's address is to guess (tor manual), so the halves
// follow the whole; what home networks (low 10/8), containers (172.16/12),
// fake-IP proxies (198.18/15) and overlay VPNs (100.64/10) tend to use comes late.
var (
	onionCandidates4 = slices.Concat(
		parts("10.0.0.0/8", 10), parts("10.0.0.0/8", 11), parts("10.0.0.0/8", 12),
		parts("172.16.0.0/12", 12), parts("172.16.0.0/12", 13), parts("172.16.0.0/12", 14),
		parts("198.18.0.0/15", 15),
		parts("100.64.0.0/10", 10), parts("100.64.0.0/10", 11), parts("100.64.0.0/10", 12),
	)
	// Plan is a function of its input, so the ULA is not random (RFC 4193)
	// but spells fd, "tor": nobody routes to it from elsewhere. The last
	// resort, for hosts that route all of fc00::/7, is the benchmarking space.
	onionCandidates6 = append(parts("fd74:6f72::/36", 40), netip.MustParsePrefix("2001:2::/48"))
)

// parts cuts a prefix into parts of the given length, the last one first.
func parts(whole string, bits int) []netip.Prefix {
	p := netip.MustParsePrefix(whole)
	var out []netip.Prefix
	for i := 1<<(bits-p.Bits()) - 1; i >= 0; i-- {
		a := p.Addr().AsSlice()
		for bit := range bits - p.Bits() {
			if i>>bit&1 == 1 {
				at := bits - 1 - bit
				a[at/8] |= 0x80 >> (at % 8)
			}
		}
		addr, _ := netip.AddrFromSlice(a)
		out = append(out, netip.PrefixFrom(addr, bits))
	}
	return out
}

// onionFamily is what there is to say of one family's range.
type onionFamily struct {
	want       netip.Prefix // the user's, or the system tor's; zero to choose
	candidates []netip.Prefix
	flag       string
	option     string // of a torrc
}

// chooseOnion returns the virtual ranges of both families, with room for so many tors.
func chooseOnion(cfg config.Config, h Host, instances int) (v4, v6 netip.Prefix, err error) {
	roomy := func(candidates []netip.Prefix) []netip.Prefix {
		return slices.DeleteFunc(slices.Clone(candidates), func(p netip.Prefix) bool { return !config.OnionFits(p, instances) })
	}
	v4, err = onionRange(cfg, h, onionFamily{cfg.Tor.Onion4, roomy(onionCandidates4), "--onion4", "VirtualAddrNetworkIPv4"})
	if err != nil {
		return v4, v6, err
	}
	v6, err = onionRange(cfg, h, onionFamily{cfg.Tor.Onion6, roomy(onionCandidates6), "--onion6", "VirtualAddrNetworkIPv6"})
	return v4, v6, err
}

// onionRange checks the range wanted or chooses one.
func onionRange(cfg config.Config, h Host, f onionFamily) (netip.Prefix, error) {
	var excluded []netip.Prefix
	for _, r := range cfg.Rules {
		if r.Kind == config.KindDestination || r.Kind == config.KindSource {
			excluded = append(excluded, r.Prefix)
		}
	}
	chosen, ok := freeRange(f.candidates, h, excluded)
	if f.want == (netip.Prefix{}) {
		if ok {
			return chosen, nil
		}
		first := f.candidates[0]
		hit, by := h.hit(first)
		return netip.Prefix{}, refuse(ErrNoOnionRange, first.String(), nil,
			"no virtual range for .onion is free, all private space is routed (%s is %s): remove a route that your devices do not need and name its prefix with %s",
			hit, by, f.flag)
	}
	hit, by := h.hit(f.want)
	if by == "" {
		return f.want, nil
	}
	next, instead := "choose another", []string(nil)
	if ok {
		next, instead = fmt.Sprintf("leave %s out or give it %s", f.flag, chosen), []string{chosen.String()}
	}
	if ok && cfg.Tor.Mode == config.TorSystem {
		next = fmt.Sprintf("put %s %s in the torrc of the system tor and reload it", f.option, chosen)
	}
	return netip.Prefix{}, refuse(ErrOnionRouted, f.want.String(), instead,
		"virtual range %s for .onion overlaps %s, %s, which would be taken away from your devices: %s", f.want, hit, by, next)
}

// freeRange returns the first candidate that no route, address or exclusion
// touches, or else the first that no route or address does: .onion is judged
// before exclusions, so a wide one ("all of 10.0.0.0/8") does no harm.
func freeRange(candidates []netip.Prefix, h Host, excluded []netip.Prefix) (netip.Prefix, bool) {
	for _, avoid := range [][]netip.Prefix{excluded, nil} {
		for _, c := range candidates {
			_, by := h.hit(c)
			if by == "" && !slices.ContainsFunc(avoid, c.Overlaps) {
				return c, true
			}
		}
	}
	return netip.Prefix{}, false
}

// hit returns a prefix that the host reaches and p overlaps, and how it is
// reached; uplinks count too, for what lies behind them would vanish as well.
func (h Host) hit(p netip.Prefix) (netip.Prefix, string) {
	for _, r := range h.reaches() {
		if !r.prefix.Overlaps(p) {
			continue
		}
		name := fmt.Sprintf("interface %d", r.index)
		if l, ok := h.LinkByIndex(r.index); ok {
			name = l.Name
		}
		return r.prefix, r.how + " " + name
	}
	return netip.Prefix{}, ""
}
