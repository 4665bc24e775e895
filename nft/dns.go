package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// dnsRules send queries to DNSPort at the address that tor answers from. tor
// listens on the wildcard, so the kernel chooses that address by whom the answer
// is for; a redirect chooses by other rules (for IPv6 the newest address, for
// IPv4 the first), and where the two differ, as with a unique local and a global
// prefix on one LAN, conntrack does not know the answer and the device never
// gets it. An address that has gone meanwhile leads nowhere: the class may not
// be forwarded.
func (b *builder) dnsRules() []rule {
	udp := protocol(unix.IPPROTO_UDP)
	var rules []rule
	for _, lan := range b.LANs {
		for _, a := range answering(lan.Addrs) {
			rules = append(rules, newRule("to tor's DNSPort, where tor answers this subnet from",
				fromInterface(lan.Name), fromPrefix(a.Masked()), udp, dnat(a.Addr(), b.dnsPort(word(4)))))
		}
	}
	return append(rules, newRule("to tor's DNSPort", udp, redirectTo(b.dnsPort(reg1))))
}

// answering returns the address of each subnet that the kernel prefers, the
// first, and the narrowest subnet first, as a route would be chosen.
func answering(addrs []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		if !slices.ContainsFunc(out, func(have netip.Prefix) bool { return have.Masked() == a.Masked() }) {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Prefix) int { return cmp.Compare(b.Bits(), a.Bits()) })
	return out
}

func fromInterface(name string) []expr.Any { return isInterface(expr.MetaKeyIIFNAME, name) }

// dnat rewrites the destination, to the port that load puts into the register of word 4. The
// flags are those that the kernel lists.
func dnat(to netip.Addr, load []expr.Any) []expr.Any {
	return append(load,
		&expr.Immediate{Register: reg1, Data: to.AsSlice()},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(familyOf(to).number), Specified: true,
			RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: word(4), RegProtoMax: word(4),
		})
}
