package tor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// policyRule is one entry of a SocksPolicy.
type policyRule struct {
	accept   bool
	prefixes []netip.Prefix
}

var (
	all4 = netip.MustParsePrefix("0.0.0.0/0")
	all6 = netip.MustParsePrefix("::/0")

	// private is what tor's policies mean by that word (tor manual, ExitPolicy).
	private = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("ff00::/8"),
		netip.MustParsePrefix("::/127"),
	}
)

// parsePolicy reads the values of SocksPolicy lines, each of which may hold
// several entries. Ports do not matter to a SocksPolicy.
func parsePolicy(lines []string) ([]policyRule, error) {
	var out []policyRule
	for _, line := range lines {
		for entry := range strings.SplitSeq(line, ",") {
			action, target, _ := strings.Cut(strings.TrimSpace(entry), " ")
			r := policyRule{accept: strings.HasPrefix(action, "accept")}
			if !r.accept && !strings.HasPrefix(action, "reject") {
				return nil, fmt.Errorf("read tor's SocksPolicy: %q neither accepts nor rejects", entry)
			}
			var err error
			if r.prefixes, err = policyTarget(strings.TrimSpace(target), strings.HasSuffix(action, "6")); err != nil {
				return nil, fmt.Errorf("read tor's SocksPolicy %q: %w", entry, err)
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// policyTarget reads *, *4, *6, private, 10.0.0.0/8, [fd00::]/8, with or
// without a port behind. In accept6 and reject6 the star means IPv6 alone.
func policyTarget(s string, only6 bool) ([]netip.Prefix, error) {
	bare, _, _ := strings.Cut(s, ":")
	switch {
	case bare == "*" && only6, bare == "*6":
		return []netip.Prefix{all6}, nil
	case bare == "*":
		return []netip.Prefix{all4, all6}, nil
	case bare == "*4":
		return []netip.Prefix{all4}, nil
	case bare == "private":
		return private, nil
	}
	if addr, rest, ok := strings.Cut(strings.TrimPrefix(s, "["), "]"); ok {
		mask, _, _ := strings.Cut(rest, ":")
		s = addr + mask
	} else if strings.Count(s, ":") == 1 {
		s = bare
	}
	p, err := policyPrefix(s)
	return []netip.Prefix{p}, err
}

// policyPrefix reads a prefix or an address.
func policyPrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// accepts says whether the first entries that match let all of p in. tor
// accepts what no entry matches.
func accepts(rules []policyRule, p netip.Prefix) bool {
	for _, r := range rules {
		for _, q := range r.prefixes {
			switch {
			case q.Bits() <= p.Bits() && q.Contains(p.Addr()):
				return r.accept
			case !r.accept && q.Overlaps(p):
				return false
			}
		}
	}
	return true
}

// open says whether addresses that no entry names are let in.
func open(rules []policyRule) bool {
	verdict := func(all netip.Prefix) bool {
		for _, r := range rules {
			if slices.Contains(r.prefixes, all) {
				return r.accept
			}
		}
		return true
	}
	return verdict(all4) || verdict(all6)
}
