package testnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Zone is the domain that the lab's name server knows. Any name below it without
// records of its own has the web server's addresses.
const Zone = "example.test"

// BigName has a TXT record too large for UDP: a resolver must ask again by TCP.
const BigName = "big." + Zone

// Query is one question that reached a resolver of the lab.
type Query struct {
	Time   time.Time
	Source netip.AddrPort
	Local  netip.AddrPort
	Proto  string // "udp" or "tcp"
	Name   string // as asked, without the last dot
	Type   string // "A", "AAAA", ...
}

// DNSServer is a resolver that remembers what it was asked.
type DNSServer struct {
	node   *Node
	answer func(proto string, query *dns.Msg) *dns.Msg
	busy   atomic.Int64

	mu      sync.Mutex
	queries []Query
}

// Queries returns all questions so far.
func (s *DNSServer) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.queries...)
}

// QueriesFor returns the questions for name so far, compared without case: exits
// randomise it.
func (s *DNSServer) QueriesFor(name string) []Query {
	var found []Query
	for _, q := range s.Queries() {
		if strings.EqualFold(q.Name, name) {
			found = append(found, q)
		}
	}
	return found
}

// Busy is how many questions are still to be answered.
func (s *DNSServer) Busy() int { return int(s.busy.Load()) }

// Reset forgets the questions so far.
func (s *DNSServer) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries = nil
}

func (l *Lab) startResolvers(context.Context) error {
	zone, err := newZone()
	if err != nil {
		return err
	}
	l.DNS = &DNSServer{node: l.Internet, answer: func(_ string, q *dns.Msg) *dns.Msg { return zone.answer(q) }}
	for _, addr := range []netip.Addr{Resolver4, Resolver6, PublicResolver4, PublicResolver6} {
		if err := l.DNS.listen("", netip.AddrPortFrom(addr, PortDNS)); err != nil {
			return err
		}
	}
	if l.opts.NoRouterDNS {
		return nil
	}
	forwarder, err := newForwarder(l.Router, netip.AddrPortFrom(Resolver4, PortDNS))
	if err != nil {
		return err
	}
	l.forwarder = forwarder
	l.RouterDNS = &DNSServer{node: l.Router, answer: forwarder.answer}
	// One socket per family, so that both answer from the address that was asked.
	if err := l.RouterDNS.listen("4", netip.AddrPortFrom(netip.IPv4Unspecified(), PortDNS)); err != nil {
		return err
	}
	return l.RouterDNS.listen("6", netip.AddrPortFrom(netip.IPv6Unspecified(), PortDNS))
}

// listen serves UDP and TCP; family is "", "4" or "6".
func (s *DNSServer) listen(family string, addr netip.AddrPort) error {
	packets, err := s.node.ListenPacket("udp"+family, addr.String())
	if err != nil {
		return err
	}
	s.serve("udp", &dns.Server{PacketConn: packets})
	conns, err := s.node.Listen("tcp"+family, addr.String())
	if err != nil {
		return err
	}
	s.serve("tcp", &dns.Server{Listener: conns})
	return nil
}

func (s *DNSServer) serve(proto string, server *dns.Server) {
	server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		s.busy.Add(1)
		defer s.busy.Add(-1)
		s.record(proto, w, query)
		reply := s.answer(proto, query)
		if proto == "udp" {
			reply.Truncate(udpSize(query))
		}
		_ = w.WriteMsg(reply) // the asker may have gone
	})
	ready := make(chan struct{})
	server.NotifyStartedFunc = func() { close(ready) }
	go func() { _ = server.ActivateAndServe() }() // until closed

	<-ready // Shutdown refuses a server that has not begun
	s.node.lab.closeLater(dnsCloser{server})
}

func (s *DNSServer) record(proto string, w dns.ResponseWriter, query *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range query.Question {
		s.queries = append(s.queries, Query{
			Time:   time.Now(),
			Source: addrPort(w.RemoteAddr()),
			Local:  addrPort(w.LocalAddr()),
			Proto:  proto,
			Name:   strings.TrimSuffix(q.Name, "."),
			Type:   dns.TypeToString[q.Qtype],
		})
	}
}

type dnsCloser struct{ server *dns.Server }

// Close does not wait for questions under way: a forwarder's may hang for seconds.
func (c dnsCloser) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.server.ShutdownContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("stop resolver: %w", err)
	}
	return nil
}

// udpSize is how large an answer the asker takes (RFC 1035, RFC 6891).
func udpSize(query *dns.Msg) int {
	if opt := query.IsEdns0(); opt != nil {
		return int(opt.UDPSize())
	}
	return dns.MinMsgSize
}
