package sentry

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/torbpf/torbpf/internal/plan"
)

// answerer is who answers for a name.
type answerer int

const (
	tor       answerer = iota // the public DNS, through Tor
	ownRouter                 // the router's resolver, or nobody: a local name
	nobody                    // there is no such name, on purpose
	byHeart                   // the sentry itself
	chosen                    // the resolver that the user has chosen: an excluded name
)

// zone is a part of the name space that is local as a whole: a domain, or the
// reverse names of a prefix. The domain "." stands for names without a dot.
type zone struct {
	domain string
	prefix netip.Prefix
}

// localDomains are no part of the public DNS: home.arpa (RFC 8375), internal
// (ICANN, 2024), local (RFC 6762), and what home routers call their LANs. The LAN
// program sends their names here; see local_name in bpf/dns.h.
var localDomains = []string{"lan.", "home.arpa.", "local.", "internal.", "localdomain.", "home."}

// canaries are names that tell browsers and systems whether to bypass the
// network's resolver; docs/DNS.md says why they do not exist here. See
// canary_name in bpf/dns.h.
var canaries = []string{"use-application-dns.net.", "mask.icloud.com.", "mask-h2.icloud.com."}

// discovery is where clients ask which encrypted resolvers the network has
// (RFC 9462). It is nobody's to answer but the network's.
const discovery = "resolver.arpa."

// localhost means the asking device itself (RFC 6761, section 6.3).
const localhost = "localhost."

// names says who answers for which name.
type names struct {
	lans   []netip.Prefix // whose addresses no exit is to be asked for
	onions []netip.Prefix // the addresses that tor hands out for .onion names
	chosen func(name string) bool
}

func (n names) who(name string) (answerer, zone) {
	name = strings.ToLower(name)
	switch {
	case dns.IsSubDomain(localhost, name):
		return byHeart, zone{}
	case slices.Contains(canaries, name), dns.IsSubDomain(discovery, name):
		return nobody, zone{}
	case dns.CountLabel(name) == 1:
		return ownRouter, zone{domain: "."}
	}
	for _, domain := range localDomains {
		if dns.IsSubDomain(domain, name) {
			return ownRouter, zone{domain: domain}
		}
	}
	if prefix := n.localPrefix(reversePrefix(name)); prefix.IsValid() {
		return ownRouter, zone{prefix: prefix}
	}
	if n.chosen != nil && n.chosen(name) {
		return chosen, zone{}
	}
	return tor, zone{}
}

// localPrefix returns the longest prefix of a LAN, or of addresses that no
// public host has, that covers another one; else none.
func (n names) localPrefix(asked netip.Prefix) netip.Prefix {
	covers := func(p netip.Prefix) bool {
		return asked.IsValid() && p.Bits() <= asked.Bits() && p.Contains(asked.Addr())
	}
	if slices.ContainsFunc(n.onions, covers) {
		return netip.Prefix{} // tor knows which name it gave that address
	}
	var longest netip.Prefix
	for _, p := range slices.Concat(plan.Reserved(), n.lans) {
		if covers(p) && (!longest.IsValid() || p.Bits() > longest.Bits()) {
			longest = p.Masked()
		}
	}
	return longest
}

// reversePrefix reads the address in a reverse name (RFC 1035, section 3.5;
// RFC 3596, section 2.5), as far as the name has it: 168.192.in-addr.arpa means
// 192.168.0.0/16, and so does what is below it and no number.
func reversePrefix(name string) netip.Prefix {
	labels := dns.SplitDomainName(name)
	if len(labels) < 2 || labels[len(labels)-1] != "arpa" {
		return netip.Prefix{}
	}
	family := labels[len(labels)-2]
	labels = labels[:len(labels)-2]
	slices.Reverse(labels)
	switch family {
	case "in-addr":
		var b [4]byte
		read := readNumbers(labels[:min(len(labels), 4)], 10, func(i int, octet byte) { b[i] = octet })
		return netip.PrefixFrom(netip.AddrFrom4(b), 8*read)
	case "ip6":
		var b [16]byte
		read := readNumbers(labels[:min(len(labels), 32)], 16, func(i int, digit byte) { b[i/2] |= digit << (4 * (1 - i%2)) })
		return netip.PrefixFrom(netip.AddrFrom16(b), 4*read)
	}
	return netip.Prefix{}
}

// readNumbers hands on labels for as long as they are numbers: octets in base 10,
// single digits in base 16. It returns how many were.
func readNumbers(labels []string, base int, take func(i int, value byte)) int {
	for i, label := range labels {
		value, err := strconv.ParseUint(label, base, 8)
		if err != nil || base == 16 && len(label) != 1 {
			return i
		}
		take(i, byte(value))
	}
	return len(labels)
}

// loopback is what localhost has of a type.
func loopback(q dns.Question) []dns.RR {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 3600}
	switch q.Qtype {
	case dns.TypeA:
		return []dns.RR{&dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)}}
	case dns.TypeAAAA:
		return []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.IPv6loopback}}
	}
	return nil
}
