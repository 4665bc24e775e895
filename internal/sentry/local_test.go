package sentry

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ownDNS is a resolver on the router's loopback addresses that answers as a test
// tells it to, and remembers what it was asked.
type ownDNS struct {
	mu     sync.Mutex
	seen   []dns.Question
	answer func(*dns.Msg) *dns.Msg
}

func newOwnDNS(t *testing.T, address string, answer func(*dns.Msg) *dns.Msg) *ownDNS {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	must(t, err)
	o := &ownDNS{answer: answer}
	ready := make(chan struct{})
	server := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(ready) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		o.mu.Lock()
		o.seen = append(o.seen, q.Question[0])
		o.mu.Unlock()
		if q.RecursionDesired {
			t.Errorf("recursion is desired: %v", q)
		}
		if reply := o.answer(q); reply != nil {
			_ = w.WriteMsg(reply)
		}
	})}
	go func() { _ = server.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() { _ = server.Shutdown() })
	return o
}

func (o *ownDNS) asked() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []string
	for _, q := range o.seen {
		out = append(out, q.Name)
	}
	return out
}

func rr(t *testing.T, text string) dns.RR {
	t.Helper()
	parsed, err := dns.NewRR(text)
	must(t, err)
	return parsed
}

const rootSOA = ". 60 IN SOA a.root-servers.net. nstld.verisign-grs.com. 1 2 3 4 5"

// The styles of resolvers, as seen with real ones.

// keeper is dnsmasq with local=/lan/ and bogus-priv: it denies by itself, without a
// word of who says so.
func keeper(t *testing.T) func(*dns.Msg) *dns.Msg {
	known := []dns.RR{
		rr(t, "printer.lan. 60 IN A 192.168.1.7"), rr(t, "printer.lan. 60 IN TXT \"ink\""), rr(t, "printer. 60 IN A 192.168.1.7"),
		rr(t, "7.0.66.10.in-addr.arpa. 60 IN PTR printer.lan."),
	}
	return func(q *dns.Msg) *dns.Msg {
		reply := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		for _, rr := range known {
			if h := rr.Header(); strings.EqualFold(h.Name, q.Question[0].Name) {
				reply.Rcode = dns.RcodeSuccess
				if h.Rrtype == q.Question[0].Qtype {
					reply.Authoritative, reply.Answer = true, []dns.RR{rr}
				}
			}
		}
		return reply
	}
}

// denies answers NXDOMAIN, on whose behalf soa says.
func denies(t *testing.T, soa string, authoritative bool) func(*dns.Msg) *dns.Msg {
	authority := rr(t, soa)
	return func(q *dns.Msg) *dns.Msg {
		reply := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		reply.Authoritative, reply.Ns = authoritative, []dns.RR{authority}
		return reply
	}
}

func says(rcode int) func(*dns.Msg) *dns.Msg {
	return func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, rcode) }
}

func TestLocalNamesAreTheRoutersOwn(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	newOwnDNS(t, "127.0.0.1:53", keeper(t))
	for _, open := range []bool{true, false} {
		r.tors[0].gate.Set(open)
		for _, l := range links {
			conn := r.connect(t, l)
			for _, c := range []struct {
				name  string
				qtype uint16
				rcode int
				want  string
			}{
				{"Printer.lan.", dns.TypeA, ok, "192.168.1.7"},
				{"printer.", dns.TypeA, ok, "192.168.1.7"},
				{"printer.lan.", dns.TypeTXT, ok, `"ink"`},
				{"printer.lan.", dns.TypeMX, ok, ""},
				{"nobody.lan.", dns.TypeA, nxDomain, ""},
				{"nobody.lan.", dns.TypeANY, notImp, ""},
				{"7.0.66.10.in-addr.arpa.", dns.TypePTR, ok, "printer.lan."},
				{"8.0.66.10.in-addr.arpa.", dns.TypePTR, nxDomain, ""},
			} {
				reply := ask(t, conn, question(c.name, c.qtype))
				got := ""
				for _, rr := range reply.Answer {
					got += strings.TrimPrefix(rr.String(), rr.Header().String())
				}
				if reply.Rcode != c.rcode || got != c.want || reply.Authoritative == (c.rcode == notImp) {
					t.Errorf("%v, gate open %v: %s %d: %q in\n%v", l, open, c.name, c.qtype, got, reply)
				}
			}
		}
	}
	if n := len(r.dnsport.sources()); n != 0 {
		t.Errorf("tor was asked %d times", n)
	}
}

// TestResolversThatAskOthersHearOfNoName: whatever such a resolver is asked is seen
// by the ISP, so it is asked once, for a name that means nothing.
func TestResolversThatAskOthersHearOfNoName(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	up(t, "lo")
	for _, c := range []struct {
		name   string
		answer func(*dns.Msg) *dns.Msg
	}{
		{"dnsmasq that forwards", denies(t, rootSOA, false)},
		{"dnsmasq that forwards to one that claims authority", denies(t, rootSOA, true)},
		{"one whose upstream refuses", says(dns.RcodeRefused)},
		{"one whose upstream fails", says(dns.RcodeServerFailure)},
		{"one whose upstream sends to the root", says(dns.RcodeSuccess)},
		{"one whose upstream sells every name", func(q *dns.Msg) *dns.Msg {
			reply := new(dns.Msg).SetReply(q)
			reply.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 51.20.0.80")}
			return reply
		}},
		{"one whose upstream is silent", func(*dns.Msg) *dns.Msg { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := newOwnDNS(t, "127.0.0.1:5300", c.answer)
			l := newLocalResolver(Config{LocalResolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5300")}}, 100*time.Millisecond)
			for range 3 {
				if answer := l.ask(t.Context(), question("secret.lan.", dns.TypeA).Question[0], zone{domain: "lan."}); answer != nil {
					t.Errorf("got %v", answer)
				}
			}
			if asked := own.asked(); len(asked) != 1 || strings.Contains(asked[0], "secret") {
				t.Errorf("the resolver was asked %v", asked)
			}
		})
	}
}

// TestAuthorityIsBelievedWhereNobodyElseHasIt: unbound names a zone of its own.
func TestAuthorityIsBelievedWhereNobodyElseHasIt(t *testing.T) {
	const soa = " 10800 IN SOA localhost. nobody.invalid. 1 3600 1200 604800 10800"
	for _, c := range []struct {
		zone  zone
		owner string
		want  bool
	}{
		{zone{domain: "lan."}, "lan.", true},
		{zone{domain: "lan."}, ".", false},
		{zone{domain: "lan."}, "example.", false},
		{zone{domain: "."}, ".", false},
		{zone{domain: "home.arpa."}, "home.arpa.", false},
		{zone{prefix: netip.MustParsePrefix("192.168.0.0/16")}, "168.192.in-addr.arpa.", false},
	} {
		q := new(dns.Msg).SetQuestion("x.", dns.TypeA)
		if got := c.zone.own(denies(t, c.owner+soa, true)(q)); got != c.want {
			t.Errorf("%v denied by %s: own %v, want %v", c.zone, c.owner, got, c.want)
		}
	}
}

func TestTrustEndsWithTheFirstAnswerOfOthers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	up(t, "lo")
	kept, forwarded := keeper(t), denies(t, rootSOA, false)
	own := newOwnDNS(t, "127.0.0.1:5300", func(q *dns.Msg) *dns.Msg {
		if q.Question[0].Name == "moved.lan." {
			return forwarded(q)
		}
		return kept(q)
	})
	l := newLocalResolver(Config{LocalResolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5300")}}, time.Second)
	lan := zone{domain: "lan."}
	asks := func(name string) bool { return l.ask(t.Context(), question(name, dns.TypeA).Question[0], lan) != nil }
	if !asks("printer.lan.") || asks("moved.lan.") || asks("printer.lan.") {
		t.Error("trusted where it may not be, or the other way round")
	}
	if n := len(own.asked()); n != 3 { // the stranger, the printer, what has moved
		t.Errorf("asked %d times: %v", n, own.asked())
	}
	l.trust(tried{lan, dns.TypeA}).until = time.Now()
	if !asks("printer.lan.") {
		t.Error("not tried again when the time was over")
	}
}

func TestRouterWithoutResolverKnowsNoLocalName(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	begin := time.Now()
	reply := ask(t, r.connect(t, links[0]), question("printer.lan.", dns.TypeA))
	if reply.Rcode != nxDomain || !reply.Authoritative {
		t.Errorf("got %v", reply)
	}
	if took := time.Since(begin); took > 400*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	if n := len(r.dnsport.sources()); n != 0 {
		t.Errorf("tor was asked %d times", n)
	}
	newOwnDNS(t, "[::1]:53", keeper(t))
	l := newLocalResolver(Config{}, time.Second)
	if l.ask(t.Context(), question("printer.lan.", dns.TypeA).Question[0], zone{domain: "lan."}) == nil {
		t.Error("a resolver on ::1 alone is not asked")
	}
	if tor := newLocalResolver(Config{Tors: []TorConfig{{DNSPort: 9053}, {DNSPort: 53}}}, time.Second); len(tor.servers) != 0 {
		t.Errorf("tor itself would be asked, at %v", tor.servers)
	}
}
