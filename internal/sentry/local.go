package sentry

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// localResolver asks the router's own resolver for local names, and only where
// that one does not ask its upstream for them in clear.
//
// Not to wish for recursion is not enough: unbound then asks nobody, but dnsmasq
// (seen with 2.90) forwards all the same. So a zone is tried with a name that
// nobody has, made up at random, before the first of a device's names in it is
// asked for, and every hour again. A resolver that forwards it lets the ISP see a
// name that means nothing, and is asked for no other of that zone.
type localResolver struct {
	servers []netip.AddrPort
	timeout time.Duration // of one question, to all servers together

	mu    sync.Mutex
	zones map[tried]*trust
}

// tried is what one trial tells of: dnsmasq keeps to itself an address of a name
// without a dot, and asks its upstream for any other type of it.
type tried struct {
	zone
	qtype uint16
}

// trust is what is known of the resolver in one zone.
type trust struct {
	mu    sync.Mutex // held while it is tried, so that all wait for one trial
	until time.Time
	keeps bool // it answers by itself
}

const (
	// trustTime is how long a trial holds: resolvers are configured anew.
	trustTime = time.Hour
	// absentTime is how long a resolver that does not listen is left alone.
	absentTime = 10 * time.Second
)

func newLocalResolver(cfg Config, timeout time.Duration) *localResolver {
	servers := cfg.LocalResolvers
	if len(servers) == 0 {
		servers = []netip.AddrPort{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53),
			netip.AddrPortFrom(netip.IPv6Loopback(), 53),
		}
	}
	// A tor that has its DNSPort there would ask an exit.
	servers = slices.DeleteFunc(slices.Clone(servers), func(s netip.AddrPort) bool {
		return slices.ContainsFunc(cfg.Tors, func(t TorConfig) bool { return s.Port() == t.DNSPort })
	})
	return &localResolver{servers: servers, timeout: timeout, zones: make(map[tried]*trust)}
}

// ask returns the resolver's answer, or nil where it may not be asked or knows
// nothing.
func (l *localResolver) ask(ctx context.Context, q dns.Question, z zone) *dns.Msg {
	if !z.mayAsk(q) {
		return &dns.Msg{} // NOERROR: nobody is asked, and nothing is said of other types
	}
	of := tried{z, q.Qtype}
	t := l.trust(of)
	if !t.check(func() (bool, time.Duration) { return l.try(ctx, of) }) {
		return nil
	}
	answer := l.exchange(ctx, q)
	if answer == nil || !answered(answer) {
		return nil
	}
	if !z.own(answer) {
		t.withdraw()
		return nil
	}
	return answer
}

func (l *localResolver) trust(z tried) *trust {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, known := l.zones[z]
	if !known {
		t = new(trust)
		l.zones[z] = t
	}
	return t
}

// check tells whether the resolver is trusted, and tries it where that is not known
// any more.
func (t *trust) check(try func() (keeps bool, holds time.Duration)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.After(t.until) {
		keeps, holds := try()
		t.keeps, t.until = keeps, now.Add(holds)
	}
	return t.keeps
}

// withdraw is for a resolver that turns out to ask others after all.
func (t *trust) withdraw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keeps, t.until = false, time.Now().Add(trustTime)
}

// try asks for a name that nobody has. Only a resolver that denies it by itself is
// trusted: one that refuses may have been refused by its upstream.
func (l *localResolver) try(ctx context.Context, z tried) (keeps bool, holds time.Duration) {
	begin := time.Now()
	answer := l.exchange(ctx, z.stranger(z.qtype))
	switch {
	case ctx.Err() != nil:
		return false, 0
	case answer == nil && time.Since(begin) < l.timeout:
		return false, absentTime
	case answer == nil || !answered(answer) || !z.own(answer):
		return false, trustTime
	}
	return answer.Rcode == dns.RcodeNameError || answer.Authoritative, trustTime
}

// exchange asks one server after the other, without wishing for recursion, and
// returns the first answer. nil: there is none.
func (l *localResolver) exchange(ctx context.Context, q dns.Question) *dns.Msg {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	client := dns.Client{Net: "udp", UDPSize: maxMessage, Timeout: l.timeout}
	query := &dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id()}, Question: []dns.Question{q}}
	query.SetEdns0(udpPayload, false)
	for _, server := range l.servers {
		answer, _, err := client.ExchangeContext(ctx, query, server.String())
		if err == nil && answer.Response && len(answer.Question) == 1 && sameQuestion(answer.Question[0], q) {
			return answer
		}
	}
	return nil
}

// answered tells whether the resolver says anything of the name.
func answered(m *dns.Msg) bool {
	return !m.Truncated && (m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError)
}

// own tells whether an answer can only be the resolver's own. Whoever denies a name
// on behalf of others names the zone that denies it (RFC 2308, section 3). Nobody
// else has a zone "lan"; but many resolvers have the reverse zones and home.arpa
// (RFC 6303, RFC 8375), so that there only an answer that names none will do, and
// AA means nothing: dnsmasq hands it on.
func (z zone) own(m *dns.Msg) bool {
	for _, rr := range m.Ns {
		owner := rr.Header().Name
		if z.prefix.IsValid() || z.domain == "." || z.domain == "home.arpa." || !dns.IsSubDomain(z.domain, owner) {
			return false
		}
	}
	return true
}

// mayAsk tells which questions a resolver can be trusted with at all: of names without
// a dot their addresses, of addresses their names. For all else in these zones dnsmasq
// asks its upstream, whatever it was told.
func (z zone) mayAsk(q dns.Question) bool {
	switch {
	case z.prefix.IsValid():
		asked := reversePrefix(strings.ToLower(q.Name))
		const suffix = 2 // labels behind the address
		labels := map[int]int{32: 4, 128: 32}[asked.Addr().BitLen()]
		return q.Qtype == dns.TypePTR && asked.IsSingleIP() && dns.CountLabel(q.Name) == labels+suffix
	case z.domain == ".":
		return q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA
	}
	return true
}

// stranger is a question for a name of the zone that nobody has.
func (z zone) stranger(qtype uint16) dns.Question {
	if !z.prefix.IsValid() {
		label := make([]byte, 12)
		for i := range label {
			label[i] = 'a' + byte(rand.N(26))
		}
		name := dns.Fqdn(string(label))
		if z.domain != "." {
			name += z.domain
		}
		return dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}
	}
	addr := z.prefix.Addr().AsSlice()
	for bit := z.prefix.Bits(); bit < 8*len(addr); bit++ {
		addr[bit/8] |= byte(rand.N(2)) << (7 - bit%8)
	}
	stranger, _ := netip.AddrFromSlice(addr)
	name, _ := dns.ReverseAddr(stranger.String()) // fails on what is no address only
	return dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}
}
