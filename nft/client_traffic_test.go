package nft

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

const (
	refusedTCP = "ECONNREFUSED" // by a reset
	refusedUDP = "EPERM"        // by the call
)

// want is what a program of the machine gets for what it asks.
type want struct {
	mark        int
	network, to string
	answer      string
}

// mustGet wants those answers, and that the outside hears of a question only where it, and
// nobody else, has answered it.
func (l *clientLab) mustGet(wants ...want) {
	l.t.Helper()
	for _, w := range wants {
		load(l.t, "table inet watch\ndelete table inet watch")
		l.outside.load(l.t, "table inet watch\ndelete table inet watch")
		heard := l.outside.countAll(l.t)
		got := l.call(w.mark, w.network, w.to)
		if got != w.answer {
			l.t.Errorf("%s to %s, mark %#x: %q, want %q", w.network, w.to, w.mark, got, w.answer)
		}
		if n := heard(); n > 0 && w.answer != "outside" && w.answer != "pong" {
			l.t.Errorf("%s to %s, mark %#x: the outside has heard %d packets", w.network, w.to, w.mark, n)
		}
		l.mustForetell(w)
	}
}

func to(host, port string) string { return net.JoinHostPort(host, port) }

// TestWhatTheMachineSendsIsTors or refused at once, over both families.
func TestWhatTheMachineSendsIsTors(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	for _, site := range []string{site4, site6, holed4, outside4} {
		l.mustGet(
			want{0, "tcp", to(site, "80"), "trans " + to(site, "80")},
			want{0, "udp", to(site, "80"), refusedUDP},
			want{0, "ping", site, refusedUDP},
			want{0, "udp", to(site, "53"), "sentry"},
			want{0, "tcp", to(site, "53"), "sentry"})
	}
	l.mustGet(
		want{0, "udp", to(dmz4, "53"), "sentry"},
		want{0, "udp", to(near4, "53"), "sentry"},
		want{0, "udp", to(direct4, "53"), "sentry"},
		want{0, "tcp", to(direct6, "53"), "sentry"},
		want{0, "udp", to(vpn4, "53"), "sentry"},
		want{0, "udp", to(stub, "53"), "stub"},
		want{0, "tcp", to(stub, "53"), "stub"},
		want{0, "tcp", to(wan4, "22"), "machine"},
		want{0, "udp", to("::1", "22"), "machine"})
	l.wantNothingInbound()
}

// TestOnionIsTorsWhoeverAsks even what is exempt.
func TestOnionIsTorsWhoeverAsks(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	p.Client.Local = append(p.Client.Local, plan.LocalSubnet{Name: "wan0", Prefix: p.Onion4})
	p.Client.Direct = append(p.Client.Direct, plan.Opening{Prefix: p.Onion6})
	l.apply(p)
	for _, onion := range []string{onion4, onion6} {
		for _, mark := range []int{0, markDirect, markInbound, markTor, markUser} {
			l.mustGet(
				want{mark, "tcp", to(onion, "80"), "trans " + to(onion, "80")},
				want{mark, "udp", to(onion, "53"), "sentry"},
				want{mark, "udp", to(onion, "80"), refusedUDP},
				want{mark, "ping", onion, refusedUDP})
		}
	}
}

// TestWhatIsExcludedGoesDirect by destination, port, mark and outgoing interface.
func TestWhatIsExcludedGoesDirect(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	for _, direct := range []string{direct4, direct6} {
		l.mustGet(
			want{0, "tcp", to(direct, "80"), "outside"},
			want{0, "udp", to(direct, "80"), "outside"},
			want{0, "ping", direct, "pong"})
	}
	l.mustGet(
		want{0, "tcp", to(site4, "22"), "outside"},
		want{0, "tcp", to(site6, "22"), "outside"},
		want{0, "udp", to(site4, "22"), refusedUDP},
		want{0, "tcp", to(holed4, "22"), "trans " + to(holed4, "22")},
		want{0, "tcp", to(direct4, "22"), "trans " + to(direct4, "22")},
		want{0, "udp", to(resolver4, "53"), "outside"},
		want{0, "tcp", to(resolver4, "53"), "sentry"},
		want{markUser, "tcp", to(site4, "80"), "outside"},
		want{markUser, "udp", to(site6, "80"), "outside"},
		want{markUser, "udp", to(site4, "53"), "sentry"},
		want{markUser + 1, "tcp", to(site4, "80"), "trans " + to(site4, "80")},
		want{0, "tcp", to(vpn4, "80"), "dmz"},
		want{0, "udp", to(vpn4, "80"), "dmz"})
}

// TestICMPIsExcludedInBothFamilies by one rule, or by a prefix in one.
func TestICMPIsExcludedInBothFamilies(t *testing.T) {
	l := newClientLab(t)
	for _, test := range []struct{ match, answer4, answer6 string }{
		{"icmp", "pong", "pong"},
		{"icmp@9.9.9.0/24", "pong", refusedUDP},
		{"icmp@2620:fe::/32", refusedUDP, "pong"},
	} {
		p := l.plan()
		entry, err := config.ParseEntry(config.KindPort, test.match)
		if err != nil {
			t.Fatal(err)
		}
		entry.Client = true
		p.Client.Rules = append(p.Client.Rules, config.Direct(entry))
		l.apply(p)
		l.mustGet(want{0, "ping", site4, test.answer4}, want{0, "ping", site6, test.answer6})
	}
}

// TestExclusionsEnd by the wall clock, with nobody there to take them back.
func TestExclusionsEnd(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	soon := time.Now().Add(3 * time.Second)
	for i := range p.Client.Rules {
		p.Client.Rules[i].Until = soon
	}
	over := config.Direct(config.Entry{Kind: config.KindPort, Client: true, Prefix: prefixOf(direct4), Service: config.Service{Protocol: 6, Port: 80}})
	over.Until, over.Beneath = soon, &config.Rule{Policy: config.PolicyTor}
	p.Client.Rules = append(p.Client.Rules, over)
	p.Client.Direct = append(p.Client.Direct, plan.Opening{Prefix: prefixOf(lasting4), Ends: 1, Until: soon})
	l.apply(p)
	l.mustGet(want{0, "tcp", to(lasting4, "80"), "outside"},
		want{0, "tcp", to(direct4, "80"), "outside"},
		want{0, "tcp", to(site4, "22"), "outside"},
		want{markUser, "tcp", to(site4, "80"), "outside"},
		want{0, "tcp", to(vpn4, "80"), "dmz"})
	l.eventually("it ends", func() bool { return l.call(0, "tcp", to(lasting4, "80")) != "outside" })
	l.mustGet(want{0, "tcp", to(lasting4, "80"), "trans " + to(lasting4, "80")},
		want{0, "tcp", to(site4, "22"), "trans " + to(site4, "22")},
		want{0, "tcp", to(direct4, "22"), "outside"}, // what took it back has ended as well
		want{0, "tcp", to(direct4, "80"), "trans " + to(direct4, "80")},
		want{markUser, "tcp", to(site4, "80"), "trans " + to(site4, "80")},
		want{0, "udp", to(resolver4, "53"), "sentry"},
		want{0, "tcp", to(vpn4, "80"), "trans " + to(vpn4, "80")})
	wantDifferences(t, p)
}

// TestSocketsHaveTheirClass from BPF, and forge none that they may not have.
func TestSocketsHaveTheirClass(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	for _, mark := range []int{markDirect, markInbound, markDirect | markUser} {
		l.mustGet(
			want{mark, "tcp", to(site4, "80"), "outside"},
			want{mark, "udp", to(site6, "80"), "outside"},
			want{mark, "udp", to(site4, "53"), "outside"},
			want{mark, "ping", site4, "pong"},
			want{mark, "udp", to(stub, "53"), "stub"})
	}
	for _, forged := range []int{0x02000000, 0x04000000, 0x09000000, 0x0b000000, 0x0c000000, 0x0f000000} {
		l.mustGet(
			want{forged, "tcp", to(site4, "80"), "trans " + to(site4, "80")},
			want{forged, "udp", to(site4, "80"), refusedUDP})
	}
	l.mustGet(
		want{markTor, "tcp", to(site4, "80"), "trans " + to(site4, "80")},
		want{markTor, "udp", to(stub, "53"), "sentry"},
		want{markTor, "tcp", to(stub, "53"), "sentry"},
		want{markTor, "tcp", to("::1", "22"), "machine"},
		want{markTor, "udp", to(wan4, "22"), "machine"})
}

// TestNoRuleLetsOutWhatRunsByTor: neither for a destination, nor a port, a mark or an
// interface, whether the machine is on Tor or not; neighbours it reaches. The user's own rules
// may have written over its class.
func TestNoRuleLetsOutWhatRunsByTor(t *testing.T) {
	l := newClientLab(t)
	load(t, `table inet user {
		chain marks { type filter hook output priority mangle; }
	}`)
	for _, all := range []bool{true, false} {
		p := l.plan()
		p.Client.All = all
		l.apply(p)
		for _, marks := range []string{"", fmt.Sprintf("meta mark set %#x", markUser), "meta mark set 0x03000000"} {
			load(t, "flush chain inet user marks")
			if marks != "" {
				load(t, "add rule inet user marks oifname != lo "+marks)
			}
			for _, mark := range []int{markTor, markTor | markUser} {
				for _, host := range []string{direct4, direct6, vpn4} {
					l.mustGet(
						want{mark, "tcp", to(host, "80"), "trans " + to(host, "80")},
						want{mark, "udp", to(host, "80"), refusedUDP},
						want{mark, "ping", host, refusedUDP})
				}
				l.mustGet(
					want{mark, "tcp", to(site4, "22"), "trans " + to(site4, "22")},
					want{mark, "tcp", to(site6, "80"), "trans " + to(site6, "80")},
					want{mark, "udp", to(resolver4, "53"), "sentry"},
					want{mark, "udp", to(site6, "53"), "sentry"},
					want{mark, "tcp", to(dmz4, "80"), "dmz"})
			}
		}
	}
}

// TestTheMachineReachesItsNeighbours but by no other interface than theirs.
func TestTheMachineReachesItsNeighbours(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	p.Client.Exits = nil
	l.apply(p)
	l.mustGet(
		want{0, "tcp", to(dmz4, "80"), "dmz"},
		want{0, "udp", to(dmz6, "80"), "dmz"},
		want{0, "tcp", to(near4, "80"), "outside"},
		want{0, "ping", near4, "pong"},
		want{0, "ping", dmz6, "pong"})
	p.LocalMode = config.LocalNone
	l.apply(p)
	l.mustGet(
		want{0, "tcp", to(dmz4, "80"), "trans " + to(dmz4, "80")},
		want{0, "udp", to(dmz6, "80"), refusedUDP})
	p.LocalMode = ""
	l.apply(p)
	l.route(dmz4, outside4)
	l.mustGet(
		want{0, "tcp", to(dmz4, "80"), "trans " + to(dmz4, "80")},
		want{0, "udp", to(dmz4, "80"), refusedUDP})
}

// TestOnlyWhatRunsByTorIsJudgedWithoutTheRest of the machine.
func TestOnlyWhatRunsByTorIsJudgedWithoutTheRest(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	p.Client.All = false
	l.apply(p)
	for _, mark := range []int{0, markDirect, markInbound, markUser} {
		l.mustGet(
			want{mark, "tcp", to(site4, "80"), "outside"},
			want{mark, "udp", to(site6, "80"), "outside"},
			want{mark, "udp", to(site4, "53"), "outside"},
			want{mark, "udp", to(stub, "53"), "stub"},
			want{mark, "ping", site4, "pong"})
	}
	l.mustGet(
		want{markTor, "tcp", to(site4, "80"), "trans " + to(site4, "80")},
		want{markTor, "tcp", to(site6, "80"), "trans " + to(site6, "80")},
		want{markTor, "udp", to(site4, "80"), refusedUDP},
		want{markTor, "ping", site4, refusedUDP},
		want{markTor, "udp", to(site4, "53"), "sentry"},
		want{markTor, "udp", to(stub, "53"), "sentry"},
		want{markTor, "tcp", to("::1", "22"), "machine"},
		want{markTor, "tcp", to(onion4, "80"), "trans " + to(onion4, "80")},
		want{markTor, "tcp", to(dmz4, "80"), "dmz"})
}

// TestWhatRunsByTorReachesNobodyHereWhoGoesOnInClear: neither the proxy past Tor nor a
// resolver of this machine that is asked over TLS or QUIC.
func TestWhatRunsByTorReachesNobodyHereWhoGoesOnInClear(t *testing.T) {
	l := newClientLab(t)
	for _, host := range []string{"127.0.0.1", "::1", wan4} {
		l.serve(nil, "tcp", to(host, "3128"), "proxy")
		l.serve(nil, "tcp", to(host, "853"), "resolver")
		l.serve(nil, "udp", to(host, "853"), "resolver")
	}
	for _, all := range []bool{true, false} {
		p := l.plan()
		p.Client.All, p.Client.ProxyPort = all, 3128
		l.apply(p)
		for _, host := range []string{"127.0.0.1", "::1", wan4} {
			for _, mark := range []int{0, markDirect} {
				l.mustGet(
					want{mark, "tcp", to(host, "3128"), "proxy"},
					want{mark, "tcp", to(host, "853"), "resolver"},
					want{mark, "udp", to(host, "853"), "resolver"})
			}
			before := l.drops(RefusedClient)
			l.mustGet(
				want{markTor, "tcp", to(host, "3128"), refusedTCP},
				want{markTor, "tcp", to(host, "853"), refusedTCP},
				want{markTor, "udp", to(host, "853"), refusedUDP})
			if n := l.drops(RefusedClient) - before; n < 3 {
				t.Errorf("to %s: %d of 3 refusals are counted", host, n)
			}
			l.mustGet(want{markTor, "tcp", to(host, "22"), "machine"})
		}
	}
}
