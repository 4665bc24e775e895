package nft

import (
	"encoding/json"
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
)

// ownTraffic reads what is counted.
func (l *clientLab) ownTraffic() OwnTraffic {
	l.t.Helper()
	t, found, err := ReadOwnTraffic()
	if err != nil || !found {
		l.t.Fatalf("nobody counts: %v", err)
	}
	return t
}

// watched reads the counters of the table watch, which is not torbpf's.
func (l *clientLab) watched() map[string]Count {
	l.t.Helper()
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name           string
				Packets, Bytes uint64
			}
		}
	}
	if err := json.Unmarshal([]byte(nft(l.t, "", "-j", "list", "counters", "table", "inet", "watch")), &list); err != nil {
		l.t.Fatal(err)
	}
	out := make(map[string]Count)
	for _, e := range list.Nftables {
		if e.Counter != nil {
			out[e.Counter.Name] = Count{e.Counter.Packets, e.Counter.Bytes}
		}
	}
	return out
}

// TestOwnTrafficIsCountedToThePacket beside counters behind all of torbpf's chains that go by
// where packets lead, and survives that the table is replaced; what tor itself sends is
// nobody's.
func TestOwnTrafficIsCountedToThePacket(t *testing.T) {
	const ofTor = markDirect | 0xf0000000
	l := newClientLab(t)
	p := l.plan()
	p.LANs = []plan.LAN{{Name: "lan0"}}
	l.apply(p)
	load(t, `table inet watch {
		counter tor { }
		counter direct { }
		counter local { }
		counter of_tor { }
		counter answers { }
		chain sent {
			type filter hook postrouting priority 500;
			iif != 0 accept
			oif lo meta l4proto tcp tcp dport 9040 counter name tor accept
			oif lo th dport 9054 counter name tor accept
			oif lo accept
			th dport 7 counter name of_tor accept
			oifname lan0 counter name local accept
			ip daddr 192.168.99.0/24 counter name local accept
			icmpv6 type 133-143 counter name local accept
			ip daddr 224.0.0.0/4 counter name local accept
			ip6 daddr ff00::/8 counter name local accept
			counter name direct
		}
	}`)
	before, watched := l.ownTraffic(), l.watched()
	for i, to := range []struct {
		mark          int
		network, host string
	}{
		{0, "tcp", to(site4, "80")}, {0, "tcp", to(site6, "80")}, {markTor, "tcp", to(site4, "80")}, {0, "tcp", "127.0.0.1:9040"}, // the last as by the short way
		{0, "udp", to(site4, "53")}, {0, "tcp", to(site6, "53")}, {0, "tcp", to(onion6, "80")},
		{0, "udp", to(stub, "53")}, {0, "tcp", to(wan4, "22")}, // it stays
		{0, "udp", to(direct4, "80")}, {0, "tcp", to(direct6, "80")}, {markDirect, "udp", to(site6, "53")}, {markUser, "tcp", to(site4, "80")},
		{0, "tcp", to(vpn4, "80")}, {0, "udp", to(near4, "80")}, {0, "tcp", to(near4, "80")},
		{ofTor, "udp", to(outside4, "7")},
		{0, "udp", to(site4, "80")}, {0, "udp", to(site6, "443")}, // refused
	} {
		if i == 10 {
			p.Client.Direct = append(p.Client.Direct, plan.Opening{Prefix: prefixOf("51.40.0.1")})
			if err := Apply(p); err != nil {
				t.Fatal(err)
			}
		}
		l.call(to.mark, to.network, to.host)
	}
	got, sent := l.ownTraffic(), l.watched()
	for name, c := range map[string]struct{ from, to Count }{
		"tor":    {before.Tor, got.Tor},
		"direct": {before.Direct, got.Direct},
		"local":  {before.Local, got.Local},
		"of_tor": {before.OfTor, got.OfTor},
	} {
		counted := Count{c.to.Packets - c.from.Packets, c.to.Bytes - c.from.Bytes}
		want := Count{sent[name].Packets - watched[name].Packets, sent[name].Bytes - watched[name].Bytes}
		if counted != want || want.Packets == 0 {
			t.Errorf("%s: counted %v, sent were %v", name, counted, want)
		}
	}
	refused := Count{got.Refused.Packets - before.Refused.Packets, got.Refused.Bytes - before.Refused.Bytes}
	if want := (Count{2, 29 + 49}); refused != want { // a byte beneath the headers of UDP and IP
		t.Errorf("refused: counted %v, sent were %v", refused, want)
	}
	wantDifferences(t, p)

	p.Client = nil
	if err := Apply(p); err != nil {
		t.Fatal(err)
	}
	if got, found, err := ReadOwnTraffic(); found || err != nil {
		t.Errorf("without client mode somebody counts %+v: %v", got, err)
	}
}
