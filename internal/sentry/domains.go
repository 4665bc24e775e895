package sentry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// What an answer can do at most, whoever gives it.
const (
	domainAddresses = 16               // of one answer are let out
	domainTTLMin    = 10 * time.Second // some sites say 0, and mean: look up again for the next one
	domainTTLMax    = time.Hour
)

// domains answers for excluded names: it asks the resolver that the user has chosen, in
// clear, and lets the device that asked reach the addresses of the answer directly.
type domains struct {
	patterns []Domain
	resolver netip.AddrPort
	timeout  time.Duration // of one question, by UDP and then by TCP
	slots    *Slots
	onions   []netip.Prefix
	lans     []netip.Prefix
}

func newDomains(cfg Config, timeout time.Duration) (*domains, error) {
	if len(cfg.Domains) == 0 {
		return &domains{}, nil
	}
	slots, err := OpenSlots(cfg.SlotsFD)
	if err != nil {
		return nil, err
	}
	return &domains{
		patterns: cfg.Domains, resolver: netip.AddrPortFrom(cfg.Resolver, config.PortDNS), timeout: timeout,
		slots: slots, onions: cfg.OnionPrefixes, lans: cfg.LANPrefixes,
	}, nil
}

// match returns the excluded name that a question is for, "" for none; of several the
// longest. One whose time is over is none any more, whether or not somebody has come to
// say so.
func (d *domains) match(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	best := ""
	for _, p := range d.patterns {
		if config.DomainMatches(p.Name, name) && len(p.Name) > len(best) && !p.ended() {
			best = p.Name
		}
	}
	return best
}

func (d Domain) ended() bool {
	if d.Ends == 0 {
		return false
	}
	now, err := kernel.BootTime()
	return err != nil || d.Ends <= now
}

// ask returns the resolver's answer without the addresses that no public site has, and
// lets the device that asked reach the others.
func (d *domains) ask(ctx context.Context, q dns.Question, device abi.DatapathDeviceKey) (*dns.Msg, error) {
	domain := d.match(q.Name)
	if domain == "" {
		return nil, errors.New("ask the resolver for excluded names: the rule has just ended")
	}
	answer, err := d.exchange(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("ask the resolver for excluded names (%s): %w", d.resolver.Addr(), err)
	}
	if len(answer.Question) != 1 || !sameQuestion(answer.Question[0], q) {
		return nil, errors.New("ask the resolver for excluded names: it answered another question")
	}
	answer.Answer = d.public(answer.Answer)
	d.letOut(answer, domain, device)
	return answer, nil
}

// exchange asks by UDP, and by TCP for what does not fit.
func (d *domains) exchange(ctx context.Context, q dns.Question) (*dns.Msg, error) {
	query := &dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id(), RecursionDesired: true}, Question: []dns.Question{q}}
	query.SetEdns0(udpPayload, false)
	var answer *dns.Msg
	var err error
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, UDPSize: maxMessage, Timeout: d.timeout}
		answer, _, err = client.ExchangeContext(ctx, query, d.resolver.String())
		if err == nil && !answer.Truncated {
			return answer, nil
		}
	}
	if err == nil {
		err = errors.New("it sent half an answer")
	}
	return nil, err
}

// public leaves out addresses that no public site has: a hostile answer must not make
// devices talk to the router, to their neighbours or to what lies behind the uplink.
func (d *domains) public(records []dns.RR) []dns.RR {
	var out []dns.RR
	for _, rr := range records {
		if addr, ok := addressOf(rr); !ok || d.isPublic(addr) {
			out = append(out, rr)
		}
	}
	return out
}

func (d *domains) isPublic(addr netip.Addr) bool {
	if embedded, ok := embeddedIPv4(addr); ok && !d.isPublic(embedded) {
		return false
	}
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	for _, list := range [][]netip.Prefix{plan.Reserved(), d.onions, d.lans} {
		for _, p := range list {
			if p.Contains(addr) {
				return false
			}
		}
	}
	return true
}

// embeddedIPv4 is the address that a translator or a tunnel would make of one of IPv6:
// NAT64 (RFC 6052, 2.1) and 6to4 (RFC 3056, 2).
func embeddedIPv4(addr netip.Addr) (netip.Addr, bool) {
	b := addr.As16()
	switch {
	case addr.Is6() && nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case addr.Is6() && sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:])), true
	}
	return netip.Addr{}, false
}

var nat64, sixToFour = netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2002::/16")

func addressOf(rr dns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch rr := rr.(type) {
	case *dns.A:
		ip = rr.A
	case *dns.AAAA:
		ip = rr.AAAA
	default:
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

// letOut writes the addresses of an answer down for the device that asked, for as long
// as the shortest-lived record on the way to them holds. Where nobody knows which one
// that was, all goes through Tor.
func (d *domains) letOut(answer *dns.Msg, domain string, device abi.DatapathDeviceKey) {
	now, err := kernel.BootTime()
	if err != nil || device == nobodysDevice {
		return
	}
	ttl := domainTTLMax
	for _, rr := range answer.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	until, addresses := now+max(ttl, domainTTLMin), 0
	for _, rr := range answer.Answer {
		if addr, ok := addressOf(rr); ok && addresses < domainAddresses {
			d.slots.Put(device, addr, abi.DomainKey(domain), until)
			addresses++
		}
	}
}
