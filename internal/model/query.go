package model

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/abi"
)

// Query is the question of a DNS query (RFC 1035), as far as it can be read:
// one question, class IN, not compressed. The zero Query says nothing.
type Query struct {
	Type   uint16
	Labels []string // letters in lower case; see foldCase
	read   bool
}

// Types of records (RFC 1035, RFC 9460).
const (
	typeSVCB  = 64
	typeHTTPS = 65
)

// Limits within which a query is read; longer ones are DNSPort's.
const (
	maxQuery       = 511
	maxQueryLabels = 39 // an IPv6 address has 34, a service there 37
	maxQueryName   = 255
)

// parseQuery reads a UDP datagram with its header.
func parseQuery(datagram []byte) Query {
	stated := int(binary.BigEndian.Uint16(datagram[4:])) - 8
	if stated < 12 || stated > maxQuery || len(datagram)-8 < stated {
		return Query{}
	}
	message := datagram[8 : 8+stated]
	flags, questions := binary.BigEndian.Uint16(message[2:]), binary.BigEndian.Uint16(message[4:])
	if flags&0xf800 != 0 || questions != 1 { // an answer, or no plain query
		return Query{}
	}
	q := Query{read: true}
	rest := message[12:]
	for {
		if len(rest) == 0 || rest[0] > 63 {
			return Query{}
		}
		size := int(rest[0])
		if size == 0 {
			break
		}
		if len(q.Labels) == maxQueryLabels || len(rest) < 1+size {
			return Query{}
		}
		q.Labels = append(q.Labels, foldCase(rest[1:1+size]))
		rest = rest[1+size:]
	}
	name := len(message) - 12 - len(rest) + 1
	if name > maxQueryName || len(rest) < 5 || binary.BigEndian.Uint16(rest[3:]) != 1 {
		return Query{}
	}
	q.Type = binary.BigEndian.Uint16(rest[1:])
	return q
}

// foldCase sets the bit that tells small letters from capital ones. It makes the
// same of a few other bytes; no name has those, and the sentry knows better.
func foldCase(label []byte) string {
	folded := slices.Clone(label)
	for i := range folded {
		folded[i] |= 0x20
	}
	return string(folded)
}

// questionReason says who answers a query that is DNSPort's by its address.
func (p *Policy) questionReason(q Query, other abi.Reason) abi.Reason {
	switch {
	case !q.read:
		return other
	case q.Type == typeHTTPS || q.Type == typeSVCB:
		return abi.ReasonDNSNoData
	case p.localName(q.Labels):
		return abi.ReasonDNSLocal
	case p.excludedName(q.Labels):
		return abi.ReasonDNSDomain
	default:
		return other
	}
}

// excludedName says whether a rule is about a name, or about those below one.
func (p *Policy) excludedName(labels []string) bool {
	return slices.ContainsFunc(p.Domains, func(domain string) bool {
		bare, below := strings.CutPrefix(domain, "*.")
		want := strings.Split(foldCase([]byte(bare)), ".")
		n := len(labels) - len(want)
		return n >= 0 && (n > 0) == below && slices.Equal(labels[n:], want)
	})
}

// localName says whether a name is the sentry's: one without a dot, one of a
// domain that is no part of the public DNS, or one that asks of the network.
func (p *Policy) localName(labels []string) bool {
	if len(labels) < 2 {
		return len(labels) == 1
	}
	switch last := labels[len(labels)-1]; last {
	case "lan", "home", "local", "internal", "localdomain", "localhost":
		return true
	case "arpa":
		return p.localArpa(labels[:len(labels)-1])
	default:
		return isCanary(labels)
	}
}

// isCanary tells names by which browsers ask whether to bypass the resolver of
// the network by their length and their first eight bytes.
func isCanary(labels []string) bool {
	wire := ""
	for _, l := range labels {
		wire += string(rune(len(l)|0x20)) + l
	}
	for _, canary := range []struct {
		begin string
		bytes int
	}{
		{"3use-app", len("3use-application-dns#net")},
		{"$mask&ic", len("$mask&icloud#com")},
		{"'mask-h2", len("'mask-h2&icloud#com")},
	} {
		if len(wire) == canary.bytes && wire[:8] == canary.begin {
			return true
		}
	}
	return false
}

// localArpa judges a name below arpa: those of addresses by the address.
func (p *Policy) localArpa(labels []string) bool {
	digits := labels[:len(labels)-1]
	var a netip.Addr
	switch labels[len(labels)-1] {
	case "in-addr":
		a = reverse4(digits)
	case "ip6":
		a = reverse6(digits)
	default:
		return true
	}
	_, found := p.localSubnet(a)
	return found
}

// reverse4 reads an address as far as its name has it; the rest is 0.
func reverse4(labels []string) netip.Addr {
	var b [4]byte
	for i := range min(4, len(labels)) {
		label := labels[len(labels)-1-i]
		value := 0
		for _, c := range []byte(label[:min(3, len(label))]) {
			if c < '0' || c > '9' {
				value = 0
				break
			}
			value = value*10 + int(c-'0')
		}
		b[i] = byte(value)
	}
	return netip.AddrFrom4(b)
}

// reverse6 reads two labels for a byte, from the end. It takes every label for
// one digit; what is before the address plays no part as it is no prefix of it.
func reverse6(labels []string) netip.Addr {
	wire := ""
	for _, l := range labels {
		wire += string(rune(len(l))) + l
	}
	var b [16]byte
	for i := range b {
		if len(wire) < 4 {
			break
		}
		b[i] = hexDigit(wire[len(wire)-1])<<4 | hexDigit(wire[len(wire)-3])
		wire = wire[:len(wire)-4]
	}
	return netip.AddrFrom16(b)
}

func hexDigit(c byte) byte { return c&0xf + c>>6*9 }
