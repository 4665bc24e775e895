package testnet

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// forwarder is what dnsmasq is on a home router: it answers for the LAN's own names
// and asks the ISP's resolver for all else, from the router's WAN address and
// therefore in clear, whether recursion is desired or not, as dnsmasq does. Without
// it in the lab, DNS leaks by way of the router would go unseen.
type forwarder struct {
	node     *Node
	upstream netip.AddrPort
	local    map[string]dns.RR // by lower-case name
	careless atomic.Bool       // asks upstream for local names as well
}

// LocalZone is the domain of the LAN's own names, such as "client1.lan".
const LocalZone = "lan"

func newForwarder(n *Node, upstream netip.AddrPort) (*forwarder, error) {
	f := &forwarder{node: n, upstream: upstream, local: map[string]dns.RR{}}
	hosts := map[string]netip.Addr{"router": LANRouter4, "client1": n.lab.Client1.IPv4, "client2": n.lab.Client2.IPv4}
	for host, addr := range hosts {
		reverse, err := dns.ReverseAddr(addr.String())
		if err != nil {
			return nil, fmt.Errorf("reverse %s: %w", addr, err)
		}
		for _, text := range []string{
			fmt.Sprintf("%s.%s. 60 IN A %s", host, LocalZone, addr),
			fmt.Sprintf("%s 60 IN PTR %s.%s.", reverse, host, LocalZone),
		} {
			rr, err := dns.NewRR(text)
			if err != nil {
				return nil, fmt.Errorf("parse local name: %w", err)
			}
			f.local[rr.Header().Name] = rr
		}
	}
	return f, nil
}

func (f *forwarder) answer(proto string, query *dns.Msg) *dns.Msg {
	if len(query.Question) == 1 && f.keeps(query.Question[0].Name) {
		return f.answerLocal(query)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	reply, err := exchange(ctx, f.node, f.upstream, proto, query)
	if err != nil {
		return new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	}
	return reply
}

func (f *forwarder) answerLocal(query *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(query)
	reply.Authoritative, reply.RecursionAvailable = true, true
	rr, ok := f.local[strings.ToLower(query.Question[0].Name)]
	switch {
	case !ok:
		reply.Rcode = dns.RcodeNameError
	case rr.Header().Rrtype == query.Question[0].Qtype:
		reply.Answer = []dns.RR{rr}
	}
	return reply
}

// ForwardEverything lets the router's resolver ask the ISP's for local names that it
// does not know, like one that was never told of a local domain.
func (l *Lab) ForwardEverything(on bool) { l.forwarder.careless.Store(on) }

// keeps says which names are not asked of the ISP: those it knows, its own domain,
// names without a dot and private reverse zones (RFC 6303), unless it is careless.
func (f *forwarder) keeps(name string) bool {
	if _, known := f.local[strings.ToLower(name)]; known {
		return true
	}
	return !f.careless.Load() && isLocalName(name)
}

func isLocalName(name string) bool {
	if dns.CountLabel(name) == 1 {
		return true
	}
	for _, zone := range []string{LocalZone + ".", "168.192.in-addr.arpa.", "10.in-addr.arpa.", "d.f.ip6.arpa."} {
		if dns.IsSubDomain(zone, name) {
			return true
		}
	}
	return false
}

// exchange asks server from inside n. Unlike dns.Client it does not turn to TCP by
// itself.
func exchange(ctx context.Context, n *Node, server netip.AddrPort, proto string, query *dns.Msg) (*dns.Msg, error) {
	conn, err := n.Dial(ctx, proto, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := dns.Client{Net: proto, UDPSize: dns.MaxMsgSize}
	if deadline, ok := ctx.Deadline(); ok {
		client.Timeout = time.Until(deadline) // else two seconds
	}
	reply, _, err := client.ExchangeWithConnContext(ctx, query, &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize})
	if err != nil {
		return nil, fmt.Errorf("ask %s by %s: %w", server, proto, err)
	}
	return reply, nil
}
