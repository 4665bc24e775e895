package host

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/torbpf/torbpf/internal/config"
)

// TestOtherRoutersAreThoseThatSaySo: by the flag of their advertisements, or by a default route
// that somebody on the LAN has given; an ordinary neighbour, and one on the WAN, is none.
func TestOtherRoutersAreThoseThatSaySo(t *testing.T) {
	enterNamespace(t)
	run(t, router+`
ip neigh add fe80::66 lladdr 02:00:00:00:00:66 dev lan0 router
ip neigh add fe80::77 lladdr 02:00:00:00:00:77 dev lan0
ip neigh add fe80::88 lladdr 02:00:00:00:00:88 dev wan0 router
ip neigh add fe80::55 dev lan0 nud failed router
ip neigh add 192.168.5.9 lladdr 02:00:00:00:00:99 dev lan0
ip route add default via 192.168.5.9 metric 500
ip route add default via 203.0.113.1
`)
	lan, err := netlink.LinkByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	index := lan.Attrs().Index
	got, err := OtherRouters([]int{index})
	if err != nil {
		t.Fatal(err)
	}
	want := []OtherRouter{
		{Index: index, Addr: netip.MustParseAddr("192.168.5.9"), MAC: config.MAC{2, 0, 0, 0, 0, 0x99}, Route: true},
		{Index: index, Addr: netip.MustParseAddr("fe80::66"), MAC: config.MAC{2, 0, 0, 0, 0, 0x66}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestRulesAheadAreThoseOfOthersBeforeOurs.
func TestRulesAheadAreThoseOfOthersBeforeOurs(t *testing.T) {
	enterNamespace(t)
	run(t, `
ip rule add priority 50 lookup 220
ip rule add priority 100 iif lo fwmark 0x1 prohibit protocol 84
ip rule add priority 200 lookup 221
ip -6 rule add priority 99 lookup 222
`)
	got, err := RulesAhead()
	want := []string{"the IPv4 rule at priority 50 (table 220)", "the IPv6 rule at priority 99 (table 222)"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

// TestListenersAreThoseThatOthersCanBegin: with who they are; a connection is none.
func TestListenersAreThoseThatOthersCanBegin(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link set lo up")
	tcp, err := net.Listen("tcp4", "127.0.0.1:2222")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "[::]:5353")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	asks, err := net.Dial("udp", "127.0.0.1:5353")
	if err != nil {
		t.Fatal(err)
	}
	defer asks.Close()
	got, err := Listeners()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, l := range got {
		if l.PID == 0 || l.Process == "" {
			t.Errorf("whose is %+v?", l)
		}
		texts = append(texts, l.Protocol+" "+l.Addr.String())
	}
	slices.Sort(texts)
	if want := []string{"tcp 127.0.0.1:2222", "udp [::]:5353"}; !slices.Equal(texts, want) {
		t.Errorf("%q", texts)
	}
}
