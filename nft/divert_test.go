package nft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// servePorts listens on the router where tor and the sentry would, on all
// addresses as they do.
func (l *lab) servePorts() {
	l.serve(nil, "tcp", ":9040", "trans")
	l.serve(nil, "udp", ":9053", "dns")
	l.serve(nil, "tcp", ":9054", "resolver")
	l.serve(nil, "udp", ":9054", "resolver")
}

// serveOutside answers where the LAN hosts want to go.
func (l *lab) serveOutside() {
	for _, network := range []string{"tcp", "udp"} {
		l.serve(l.outside, network, ":80", "outside")
		l.serve(l.outside, network, ":53", "outside")
	}
}

func TestEachClassIsDivertedToItsPort(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.serveOutside()
	l.apply(l.plan())
	for _, test := range []struct {
		class         abi.Verdict
		network, port string
		want          string
	}{
		{abi.VerdictTor, "tcp", "80", "trans"},
		{abi.VerdictOnion, "tcp", "80", "trans"},
		{abi.VerdictDNS, "udp", "53", "dns"},
		{abi.VerdictResolver, "tcp", "53", "resolver"},
		{abi.VerdictResolver, "udp", "53", "resolver"},
		{abi.VerdictDirect, "tcp", "80", "outside"},
		{abi.VerdictDirect, "udp", "53", "outside"},
		{abi.VerdictNone, "udp", "53", "dns"},
		{abi.VerdictNone, "tcp", "53", "resolver"},
	} {
		l.classify(`iifname "lan0"`, test.class)
		for _, host := range []string{outside4, "[" + outside6 + "]", lan4, "[" + lan6 + "]"} {
			if test.want == "outside" && (host == lan4 || host == "["+lan6+"]") {
				continue // the router itself answers there
			}
			l.mustAnswer(test.want, l.client, test.network, host+":"+test.port)
		}
	}
}

// TestDNSIsAnsweredInEverySubnet of a LAN: tor answers from the address that the
// kernel chooses for the device that asked, and only an answer from where the
// query was sent to gets back.
func TestDNSIsAnsweredInEverySubnet(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	err := errors.Join(
		bringUp(l.router, "lan0", []string{"10.9.8.1/24", "fd50::1/64"}),
		bringUp(l.client.nl, "eth0", []string{"10.9.8.11/24", "fd50::11/64"}))
	if err != nil {
		t.Fatal(err)
	}
	p := l.plan()
	for _, a := range []string{lan4 + "/24", "10.9.8.1/24", "fd50::1/64", lan6 + "/64"} {
		addr := netip.MustParsePrefix(a)
		p.LANs[0].Addrs, p.LANs[0].Prefixes = append(p.LANs[0].Addrs, addr), append(p.LANs[0].Prefixes, addr.Masked())
	}
	l.apply(p)
	wantDifferences(t, p)
	for _, class := range []abi.Verdict{abi.VerdictDNS, abi.VerdictNone} {
		l.classify(`iifname "lan0"`, class)
		for from, servers := range map[string][]string{
			client4:     {lan4, "10.9.8.1", outside4},
			"10.9.8.11": {lan4, "10.9.8.1", outside4},
			client6:     {lan6, "fd50::1", outside6},
			"fd50::11":  {lan6, "fd50::1", outside6},
		} {
			for _, server := range servers {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				got, err := ask(ctx, l.client, "udp", net.JoinHostPort(from, "0"), net.JoinHostPort(server, "53"))
				cancel()
				if err != nil || got != "dns" {
					t.Errorf("%s asked %s as class %v: answered by %q (%v), want tor", from, server, class, got, err)
				}
			}
		}
	}
}

// TestOnionIsDivertedWithoutTC: these addresses lead nowhere else.
func TestOnionIsDivertedWithoutTC(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.apply(l.plan())
	l.mustAnswer("trans", l.client, "tcp", onion4+":80")
	l.mustAnswer("trans", l.client, "tcp", "["+onion6+"]:80")
	l.mustAnswer("dns", l.client, "udp", onion4+":53")
	for _, to := range []string{onion4 + ":80", "[" + onion6 + "]:80"} {
		l.mustDrop(DroppedUnjudged, "udp to "+to, func(ctx context.Context) (string, error) {
			return ask(ctx, l.client, "udp", "", to)
		})
	}
}

// TestClassesThatCannotBeDivertedAreDropped: TransPort takes TCP, DNSPort UDP.
func TestClassesThatCannotBeDivertedAreDropped(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.serveOutside()
	l.apply(l.plan())
	for _, test := range []struct {
		class   abi.Verdict
		network string
	}{
		{abi.VerdictTor, "udp"},
		{abi.VerdictOnion, "udp"},
		{abi.VerdictDNS, "tcp"},
		{abi.VerdictRefused, "udp"},
		{abi.VerdictRefused, "tcp"},
		{abi.VerdictPending, "udp"},
		{abi.VerdictPending, "tcp"},
	} {
		l.classify(`iifname "lan0"`, test.class)
		for _, to := range []string{outside4 + ":80", "[" + outside6 + "]:80"} {
			what := fmt.Sprintf("%s to %s in class %d", test.network, to, test.class)
			guard := DroppedBlocked
			if test.class == abi.VerdictPending {
				guard = RefusedLate
			}
			l.mustDrop(guard, what, func(ctx context.Context) (string, error) {
				return ask(ctx, l.client, test.network, "", to)
			})
		}
	}
}

// TestOtherNetworksAreNotDiverted: a class on a packet of theirs is not ours.
func TestOtherNetworksAreNotDiverted(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.serveOutside()
	l.apply(l.plan())
	for _, network := range []string{"tcp", "udp"} {
		l.mustAnswer("outside", l.dmz, network, outside4+":53")
		l.mustAnswer("outside", l.dmz, network, outside4+":80")
	}
}

// TestThePortsAreClosed to everybody who was not diverted there.
func TestThePortsAreClosed(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.apply(l.plan())
	l.classify(`iifname "lan0"`, abi.VerdictLocal)
	for _, from := range []struct {
		name   string
		node   *node
		router []string
	}{
		{"WAN", l.outside, []string{wan4, "[" + wan6 + "]"}},
		{"DMZ", l.dmz, []string{wan4, "[" + wan6 + "]"}},
		{"LAN", l.client, []string{lan4, "[" + lan6 + "]", wan4}},
	} {
		for _, listener := range []struct{ network, port string }{{"tcp", "9040"}, {"udp", "9053"}, {"tcp", "9054"}, {"udp", "9054"}} {
			for _, router := range from.router {
				to := router + ":" + listener.port
				l.mustDrop(DroppedPort, listener.network+" from the "+from.name+" to "+to, func(ctx context.Context) (string, error) {
					return ask(ctx, from.node, listener.network, "", to)
				})
			}
		}
	}
	l.mustAnswer("trans", nil, "tcp", "127.0.0.1:9040")
	l.mustAnswer("dns", nil, "udp", "[::1]:9053")
	l.mustAnswer("resolver", nil, "tcp", lan4+":9054")
}

// TestTheWANCannotBeLetInByAUserRule: a user's DNAT to the port is no diversion
// of ours.
func TestTheWANCannotBeLetInByAUserRule(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.apply(l.plan())
	load(t, `table ip user_nat { chain prerouting { iifname "wan0" tcp dport 81 redirect to :9040; }; }`)
	l.mustDrop(DroppedPort, "tcp from the WAN", func(ctx context.Context) (string, error) {
		return ask(ctx, l.outside, "tcp", "", wan4+":81")
	})
}

// lateMarks is a user's prerouting rule behind tc.
func lateMarks(t *testing.T, statement string) {
	t.Helper()
	load(t, fmt.Sprintf(`
table inet user_mangle
delete table inet user_mangle
table inet user_mangle {
	chain prerouting { type filter hook prerouting priority mangle; iifname "lan0" %s; }
	chain postrouting { type filter hook postrouting priority mangle; oifname "wan0" meta mark 0x1 counter; }
}`, statement))
}

// TestALateMarkExempts what Tor would take or nobody, in whichever way the
// user's rule sets its mark, and whole-mark comparisons of the user's match.
func TestALateMarkExempts(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.serveOutside()
	for _, mask := range []uint32{0xff, 0xffffffff} {
		p := l.plan()
		p.Rules = config.DirectMarks(config.Mark{Value: 0x1, Mask: mask})
		l.apply(p)
		for _, statement := range []string{"meta mark set meta mark | 0x1", "meta mark set 0x1"} {
			lateMarks(t, statement)
			for _, test := range []struct {
				class   abi.Verdict
				network string
			}{
				{abi.VerdictTor, "tcp"}, {abi.VerdictPending, "udp"},
			} {
				l.classify(`iifname "lan0"`, test.class)
				l.mustAnswer("outside", l.client, test.network, outside4+":80")
				l.mustAnswer("outside", l.client, test.network, "["+outside6+"]:80")
			}
			if list := nft(t, "", "list", "chain", "inet", "user_mangle", "postrouting"); !matches(list, `counter packets [1-9]`) {
				t.Errorf("%s: no packet left with the user's mark alone:\n%s", statement, list)
			}
		}
	}
}

// TestALateMarkExemptsUntilItsRuleEnds, with or without a class, though nobody applies
// another plan.
func TestALateMarkExemptsUntilItsRuleEnds(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.serveOutside()
	p := l.plan()
	p.Rules = config.DirectMarks(config.Mark{Value: 0x1, Mask: 0xff})
	unjudged := func(ctx context.Context) (string, error) { return ask(ctx, l.client, "udp", "", outside4+":80") }
	lateMarks(t, "meta mark set meta mark | 0x1")
	for _, until := range []time.Time{time.Now().Add(time.Hour), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), time.Now(), time.Unix(-5, 0)} {
		p.Rules[0].Until = until
		l.apply(p)
		wantDifferences(t, p)
		over := !time.Now().Before(until)
		l.classify(`iifname "lan0"`, abi.VerdictTor)
		l.mustAnswer(map[bool]string{false: "outside", true: "trans"}[over], l.client, "tcp", outside4+":80")
		l.classify(`iifname "lan0"`, abi.VerdictNone)
		if over {
			l.mustDrop(DroppedUnjudged, "what was exempt until "+until.String(), unjudged)
		} else {
			l.mustAnswer("outside", l.client, "udp", outside4+":80")
		}
	}
}

// TestALateMarkDoesNotExempt DNS, .onion and what was refused for good, nor
// another network's mark.
func TestALateMarkDoesNotExempt(t *testing.T) {
	l := newLab(t)
	l.servePorts()
	l.serveOutside()
	p := l.plan()
	p.Rules = config.DirectMarks(config.Mark{Value: 0x1, Mask: 0xff})
	l.apply(p)

	lateMarks(t, "meta mark set meta mark | 0x1")
	l.classify(`iifname "lan0"`, abi.VerdictOnion)
	l.mustAnswer("trans", l.client, "tcp", onion4+":80")
	l.mustAnswer("trans", l.client, "tcp", outside4+":80") // by class, not by address
	l.classify(`iifname "lan0"`, abi.VerdictDNS)
	l.mustAnswer("dns", l.client, "udp", outside4+":53")
	l.classify(`iifname "lan0"`, abi.VerdictResolver)
	l.mustAnswer("resolver", l.client, "tcp", outside4+":53")
	l.wantPing(l.client, "lan0", abi.VerdictRefused, DroppedBlocked)

	lateMarks(t, "meta mark set 0x1")
	l.classify(`iifname "lan0"`, abi.VerdictOnion)
	l.mustAnswer("trans", l.client, "tcp", "["+onion6+"]:80")
	l.mustDrop(DroppedUnjudged, "udp to .onion", func(ctx context.Context) (string, error) {
		return ask(ctx, l.client, "udp", "", onion4+":80")
	})
	l.classify(`iifname "lan0"`, abi.VerdictDNS)
	l.mustAnswer("dns", l.client, "udp", outside4+":53")

	lateMarks(t, "meta mark set meta mark | 0x2")
	l.classify(`iifname "lan0"`, abi.VerdictTor)
	l.mustAnswer("trans", l.client, "tcp", outside4+":80")
	l.wantPing(l.client, "lan0", abi.VerdictPending, RefusedLate)
}
