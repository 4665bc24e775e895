package sentry

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func TestEveryRuleHoldsOverEveryTransport(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	for _, open := range []bool{true, false} {
		r.tors[0].gate.Set(open)
		for _, l := range links {
			for _, c := range ruleCases {
				checkRule(t, r, l, c, open)
			}
		}
	}
}

func checkRule(t *testing.T, r *resolver, l link, c ruleCase, open bool) {
	t.Helper()
	conn := r.connect(t, l)
	defer conn.Close()
	message := c.message()
	before := len(r.dnsport.sources())
	transmit(t, conn, message)
	if c.ignored {
		checkIgnored(t, conn, c.name+", "+l.String())
		return
	}
	reply := receive(t, conn)
	want, answers, asked := c.shut, 0, 0
	if open || c.local {
		want, answers = c.rcode, c.answers
		if c.asks {
			asked = 1
		}
	}
	bad := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, %v, gate open %v: "+format+"\n%v", append([]any{c.name, l, open}, append(args, reply)...)...)
	}
	if reply.Rcode != want {
		bad("got %s, want %s", dns.RcodeToString[reply.Rcode], dns.RcodeToString[want])
	}
	if len(reply.Answer) != answers {
		bad("%d answers, want %d", len(reply.Answer), answers)
	}
	if n := len(r.dnsport.sources()) - before; n != asked {
		bad("tor was asked %d times, want %d", n, asked)
	}
	if (reply.IsEdns0() != nil) != c.opt {
		bad("OPT in the reply: %v", !c.opt)
	}
	if reply.Id != 0xbeef || !reply.Response || reply.Opcode != int(message[2]>>3) || reply.Authoritative != c.local {
		bad("wrong header")
	}
	var query dns.Msg
	if query.Unpack(message) == nil && len(query.Question) == 1 && want != formErr && reply.Opcode == dns.OpcodeQuery {
		if !slices.Equal(reply.Question, query.Question) {
			bad("another question")
		}
		for _, rr := range reply.Answer {
			if rr.Header().Name != query.Question[0].Name {
				bad("the name is spelt otherwise in the answer")
			}
		}
	}
}

// checkIgnored sends another query behind the one that deserves no answer.
func checkIgnored(t *testing.T, conn net.Conn, what string) {
	t.Helper()
	if _, ok := conn.(*net.TCPConn); ok {
		_ = wantEnded(t, conn, what)
		return
	}
	next := question("next.example.", dns.TypeMX)
	if reply := ask(t, conn, next); reply.Id != next.Id {
		t.Errorf("%s: was answered: %v", what, reply)
	}
}

func TestKernelWithoutIPv6TellsTheAskedAddressToo(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	o := newOutside(t)
	lc := net.ListenConfig{Control: reportDestination}
	conn, err := lc.ListenPacket(t.Context(), "udp4", ":9054")
	must(t, err)
	defer conn.Close()
	s := server{udp: conn.(*net.UDPConn)}
	client := (&resolver{outside: o}).connect(t, link{"udp", device4, second4})
	transmit(t, client, typed(dns.TypeMX)())
	buffer := make([]byte, maxMessage)
	n, session, err := dns.ReadFromSessionUDP(s.udp, buffer)
	must(t, err)
	s.sendUDP(judge(buffer[:n], true, names{}).pack(true), session)
	if reply := receive(t, client); reply.Rcode != notImp {
		t.Errorf("got %v", reply)
	}
}

func TestLinkLocalDevicesAreServedOnTheLANOnly(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	for _, network := range []string{"udp", "tcp"} {
		conn := r.connect(t, link{network, deviceLink.WithZone("eth1"), routerLink.WithZone("eth1")})
		if reply := ask(t, conn, question("www.example.", dns.TypeA)); reply.Rcode != ok {
			t.Errorf("%s: device on the LAN got %v", network, reply)
		}
	}
	wantNothing(t, r, foreignLink.WithZone("eth0"), routerLink.WithZone("eth0"))
}

func TestStrangersGetNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	wantNothing(t, r, foreign4, wan4)
	wantNothing(t, r, foreign6, wan6)
	// The router's own addresses are no better than others.
	wantNothing(t, r, wan4, wan4)
}

// wantNothing checks that a peer gets no byte by either transport. A device asks
// behind it: when that has its answer, the stranger's datagram was dealt with.
func wantNothing(t *testing.T, r *resolver, from, to netip.Addr) {
	t.Helper()
	dial := func(network string) (net.Conn, error) {
		target := netip.AddrPortFrom(to, resolverPort)
		if from == to {
			return net.Dial(network, target.String())
		}
		return r.dial(t, network, from, target)
	}
	stranger, err := dial("udp")
	must(t, err)
	defer stranger.Close()
	for _, message := range [][]byte{typed(dns.TypeMX)(), typed(dns.TypeA)(), typed(dns.TypeA)()[:15]} {
		transmit(t, stranger, message)
	}
	ask(t, r.connect(t, link{"udp", device4, router4}), question("www.example.", dns.TypeMX))
	must(t, stranger.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if n, err := stranger.Read(make([]byte, 512)); !os.IsTimeout(err) {
		t.Errorf("stranger %v got %d bytes by UDP: %v", from, n, err)
	}
	// The reset may come before Dial has returned.
	conn, err := dial("tcp")
	if err == nil {
		err = wantEnded(t, conn, "stranger "+from.String())
		conn.Close()
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("stranger %v got %v, want a reset", from, err)
	}
	if sources := r.dnsport.sources(); slices.Contains(sources, from) {
		t.Errorf("tor was asked for stranger %v", from)
	}
}

func TestTheRouterItselfIsServed(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newResolver(t, quick(nil))
	for _, address := range []string{"127.0.0.1:9054", "[::1]:9054", "10.66.0.1:9054", "[fd66::1]:9054"} {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := net.Dial(network, address)
			must(t, err)
			defer conn.Close()
			if reply := ask(t, conn, question("www.example.", dns.TypeA)); reply.Rcode != ok {
				t.Errorf("%s %s: %v", network, address, reply)
			}
		}
	}
}

func TestTorSeesEachDeviceAtAnAddressOfItsOwn(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	seen := make(map[netip.Addr]netip.Addr)
	for _, l := range []link{
		{"udp", device4, router4}, {"udp", another4, router4}, {"udp", device6, router6},
		{"tcp", device4, router4}, {"tcp", another4, second4}, {"tcp", device6, second6},
	} {
		ask(t, r.connect(t, l), question("www.example.", dns.TypeA))
		sources := r.dnsport.sources()
		source := sources[len(sources)-1]
		if !netip.MustParsePrefix("127.128.0.0/9").Contains(source) {
			t.Errorf("%v: tor was asked from %v", l, source)
		}
		if before, again := seen[l.from]; again && before != source {
			t.Errorf("%v: tor was asked from %v, before from %v", l, source, before)
		}
		for other, taken := range seen {
			if other != l.from && taken == source {
				t.Errorf("%v and %v share %v", l.from, other, source)
			}
		}
		seen[l.from] = source
	}
}

func TestSourceAddressesCanBeBoundAndAreKeyed(t *testing.T) {
	u, v := newUpstream(dnsPort, time.Second), newUpstream(dnsPort, time.Second)
	distinct := make(map[netip.Addr]bool)
	same := 0
	peer := netip.MustParseAddr("10.0.0.0")
	for range 1 << 16 {
		source := u.source(peer)
		b := source.As4()
		if b[0] != 127 || b[1] < 128 || bytes.Equal(b[:], []byte{127, 255, 255, 255}) {
			t.Fatalf("%v: source %v", peer, source)
		}
		distinct[source] = true
		if v.source(peer) == source {
			same++
		}
		peer = peer.Next()
	}
	// 65,536 balls in 2^23 bins: some 256 meet another, give or take 16.
	if lost := 1<<16 - len(distinct); lost > 350 {
		t.Errorf("%d of 65536 devices share an address", lost)
	}
	if same > 10 {
		t.Errorf("%d addresses are the same under another key", same)
	}
}

func TestLongAnswersAreTruncatedByUDPOnly(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	query := question("many.example.", dns.TypeA)
	large := question("many.example.", dns.TypeA).SetEdns0(4096, false)
	for _, c := range []struct {
		network string
		query   *dns.Msg
		max     int
		whole   bool
	}{
		{"udp", query, 512, false},
		{"udp", large, udpPayload, true}, // 60 addresses take 999 bytes
		{"tcp", query, dns.MaxMsgSize, true},
	} {
		reply := ask(t, r.connect(t, link{c.network, device4, router4}), c.query)
		if reply.Truncated == c.whole || (len(reply.Answer) == 60) != c.whole {
			t.Errorf("%s: %d answers, truncated %v", c.network, len(reply.Answer), reply.Truncated)
		}
		reply.Compress = true
		if reply.Len() > c.max {
			t.Errorf("%s: %d bytes, at most %d allowed", c.network, reply.Len(), c.max)
		}
	}
}
