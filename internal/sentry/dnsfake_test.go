package sentry

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// torAnswer answers as tor's DNSPort would, and badly for names that say so.
func torAnswer(q *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(q)
	reply.RecursionAvailable = true
	asked := q.Question[0]
	name := strings.ToLower(asked.Name)
	header := dns.RR_Header{Name: name, Rrtype: asked.Qtype, Class: dns.ClassINET, Ttl: 60}
	label, _, _ := strings.Cut(name, ".")
	switch label {
	case "nxdomain":
		reply.Rcode = dns.RcodeNameError
	case "servfail":
		reply.Rcode = dns.RcodeServerFailure
	case "refused":
		reply.Rcode = dns.RcodeRefused
	case "empty":
	case "truncated":
		reply.Truncated = true
	case "other-question":
		reply.Question[0].Name = "elsewhere.example."
	case "other-type":
		reply.Question[0].Qtype = dns.TypeMX
	case "a-query":
		reply.Response = false
	case "many":
		for i := range 60 {
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: net.IPv4(192, 0, 2, byte(i))})
		}
	default:
		switch asked.Qtype {
		case dns.TypeA:
			reply.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 1)}}
		case dns.TypeAAAA:
			reply.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.ParseIP("2001:db8:1::1")}}
		case dns.TypePTR:
			reply.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: "host.example."}}
		}
	}
	return reply
}

// fakeDNSPort listens like tor, on the wildcard, and remembers who asked.
type fakeDNSPort struct {
	conn   net.PacketConn
	mu     sync.Mutex
	seen   []netip.Addr
	answer func(*dns.Msg) *dns.Msg // nil: none; called one at a time
}

const dnsPort, resolverPort = 9053, 9054

func newFakeDNSPort(t *testing.T) *fakeDNSPort {
	t.Helper()
	conn, err := net.ListenPacket("udp4", ":"+strconv.Itoa(dnsPort))
	must(t, err)
	f := &fakeDNSPort{conn: conn, answer: torAnswer}
	// A plain socket, without the library's choice of the source address:
	// tor leaves that to the kernel as well.
	go func() {
		buffer := make([]byte, maxMessage)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var query dns.Msg
			if err := query.Unpack(buffer[:n]); err != nil {
				continue
			}
			if packed := f.reply(&query, peerOf(from)); packed != nil {
				_, _ = conn.WriteTo(packed, from) // whoever asked notices
			}
		}
	}()
	t.Cleanup(func() { conn.Close() })
	return f
}

func (f *fakeDNSPort) reply(query *dns.Msg, from netip.Addr) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, from)
	answer := f.answer(query)
	if answer == nil {
		return nil
	}
	packed, err := answer.Pack()
	if err != nil {
		return nil
	}
	return packed
}

func (f *fakeDNSPort) sources() []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]netip.Addr(nil), f.seen...)
}

func (f *fakeDNSPort) set(answer func(*dns.Msg) *dns.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// resolver is a server under test with all around it.
type resolver struct {
	outside
	*server
	dnsport *fakeDNSPort
}

// quick are limits at which a test does not wait long.
func quick(change func(*limits)) limits {
	lim := defaultLimits()
	lim.attempt = time.Second
	if change != nil {
		change(&lim)
	}
	return lim
}

// newResolver builds the namespaces and a server with an open gate, with excluded names
// if there are any.
func newResolver(t *testing.T, lim limits, excluded ...excludedNames) *resolver {
	t.Helper()
	r := &resolver{outside: newOutside(t), dnsport: newFakeDNSPort(t)}
	gate, err := OpenGate(newGates(t).FD(), 0)
	must(t, err)
	gate.Set(true)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := Config{Tors: []TorConfig{{DNSPort: dnsPort}}, ResolverPort: resolverPort, LANPrefixes: lanPrefixes, LANs: []string{"eth1"}}
	for _, e := range excluded {
		cfg.Domains, cfg.Resolver, cfg.SlotsFD, cfg.AskersFD = e.domains, e.resolver, e.slots.FD(), e.askers.FD()
	}
	r.server, err = newServer(ctx, cfg, []*Gate{gate}, lim, slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	served := make(chan error)
	go func() { served <- r.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		must(t, gate.Close())
	})
	return r
}

// link is a way for a device to reach the resolver.
type link struct {
	network  string
	from, to netip.Addr
}

// links are both transports over both families. The asked addresses are second
// ones, which the kernel would not answer from by itself.
var links = []link{
	{"udp", device4, second4}, {"udp", device6, second6},
	{"tcp", device4, second4}, {"tcp", device6, second6},
}

func (l link) String() string { return l.network + " from " + l.from.String() }

func (r *resolver) connect(t *testing.T, l link) net.Conn {
	t.Helper()
	conn, err := r.dial(t, l.network, l.from, netip.AddrPortFrom(l.to, resolverPort))
	must(t, err)
	return conn
}

// transmit sends a message as it is.
func transmit(t *testing.T, conn net.Conn, message []byte) {
	t.Helper()
	if _, ok := conn.(*net.TCPConn); ok {
		message = append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
	}
	_, err := conn.Write(message)
	must(t, err)
}

// receive waits for a reply.
func receive(t *testing.T, conn net.Conn) *dns.Msg {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	reply, err := (&dns.Conn{Conn: conn, UDPSize: maxMessage}).ReadMsg()
	must(t, err)
	return reply
}

func ask(t *testing.T, conn net.Conn, query *dns.Msg) *dns.Msg {
	t.Helper()
	packed, err := query.Pack()
	must(t, err)
	transmit(t, conn, packed)
	return receive(t, conn)
}

func question(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, qtype)
}

// wantEnded checks that the server ends a connection without sending anything,
// and returns how.
func wantEnded(t *testing.T, conn net.Conn, what string) error {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || err == nil {
		t.Errorf("%s: got data", what)
	}
	if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
		t.Errorf("%s: the connection was not ended", what)
	}
	return err
}
