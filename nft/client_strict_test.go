package nft

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// TestClientModeDoesWithoutLookingUpRoutes, for a kernel that lacks that (nft_fib): a forged
// source is told by the addresses that the plan knows, and only who begins by TCP is answered.
func TestClientModeDoesWithoutLookingUpRoutes(t *testing.T) {
	l := newClientLab(t)
	p := l.plan()
	for _, a := range []string{wan4, wan6} {
		p.LocalAddrs = append(p.LocalAddrs, netip.MustParseAddr(a))
	}
	rs, err := builder{Plan: p, strict: true}.build()
	if err != nil {
		t.Fatal(err)
	}
	if err := rs.apply(); err != nil {
		t.Fatal(err)
	}
	if table := nft(t, "", "list", "table", "inet", "torbpf"); strings.Contains(table, "fib ") {
		t.Errorf("it looks routes up:\n%s", table)
	}
	wantDifferences(t, p)
	heard := l.outside.countAll(t)
	for _, test := range []struct {
		domain         int
		from, to, want string
	}{
		{unix.AF_INET, wan4, site4, "sent"}, {unix.AF_INET6, wan6, site6, "sent"},
		{unix.AF_INET, "8.8.4.4", site4, refusedUDP}, {unix.AF_INET6, "2001:4860::8844", site6, refusedUDP}, {unix.AF_INET6, "::", site6, refusedUDP},
	} {
		from, to := netip.MustParseAddr(test.from), netip.MustParseAddr(test.to)
		syn := testnet.TCPSegment(netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 80), testnet.FlagSYN, 1, 0, nil)
		if got := l.send(test.domain, unix.SOCK_RAW, unix.IPPROTO_RAW, nil, syn, sockaddr(test.to, 0)); got != test.want {
			t.Errorf("from %s to %s: %s, want %s", test.from, test.to, got, test.want)
		}
	}
	if n := heard(); n != 0 {
		t.Errorf("the outside has heard %d packets", n)
	}
	l.mustGet(want{0, "tcp", to(site4, "80"), "trans " + site4 + ":80"}, want{0, "tcp", to(site6, "80"), "trans [" + site6 + "]:80"})
	if got := l.askFromOutside("tcp", "", to(wan4, "22")); got != "machine" {
		t.Errorf("who begins outside gets %s", got)
	}
}
