package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/testnet"
)

// guarded is a lab whose router has our rules, but neither tc nor nftables of
// ours. Marks come from a rule of the test.
func guarded(t *testing.T) router {
	r := newRouter(t)
	// Else an error that should not be sent might merely be held back.
	r.run("sysctl", "-q", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
	r.do(func() error { return Apply(planFor([]config.Mark{vpnMark}, "eth1")) })
	r.nft(`table inet classes {
		chain marks { type filter hook prerouting priority -199; }
		chain redirects { type nat hook prerouting priority -110; }
	}`)
	return r
}

// mark makes packets from the LAN carry a mark.
func (r router) mark(value uint32) {
	r.nft(fmt.Sprintf("flush chain inet classes marks\nadd rule inet classes marks iifname eth1 meta mark set %#x", value))
}

// reaches reports whether client1 reaches an echo server.
func (r router) reaches(network string, addr netip.Addr) bool {
	r.t.Helper()
	return testnet.Echo(r.Client1, network, echo(addr), timeout) == nil
}

// blocked reports whether it does not, and is not told so either: an error would
// go to whatever source a packet claims, the WAN included.
func (r router) blocked(network string, addr netip.Addr) bool {
	r.t.Helper()
	err := testnet.Echo(r.Client1, network, echo(addr), quiet)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		r.t.Errorf("%s to %s: %v, want silence", network, addr, err)
	}
	return err != nil
}

// passes is whichever of the two is expected, or what was found instead.
func (r router) passes(network string, addr netip.Addr, want bool) bool {
	r.t.Helper()
	if want {
		return r.reaches(network, addr)
	}
	return !r.blocked(network, addr)
}

func TestMarkedPacketsMeetTheRules(t *testing.T) {
	r := guarded(t)
	for _, tt := range []struct {
		name   string
		mark   uint32
		v4, v6 bool
	}{
		{"direct", 0x1000000, true, true},
		{"tor", 0x8000000, false, false},
		{"pending", 0xd000000, false, false},
		{"unmarked", 0, true, false},
		{"exempt", vpnMark.Value, true, true},
		{"a mark that is not exempt", 0x200000, true, false},
	} {
		r.mark(tt.mark)
		r.Web.Reset()
		for _, network := range []string{"tcp", "udp"} {
			if got := r.passes(network, testnet.Web4, tt.v4); got != tt.v4 {
				t.Errorf("%s: IPv4 %s passed = %v, want %v", tt.name, network, got, tt.v4)
			}
			if got := r.passes(network, testnet.Web6, tt.v6); got != tt.v6 {
				t.Errorf("%s: IPv6 %s passed = %v, want %v", tt.name, network, got, tt.v6)
			}
		}
		if visits := r.Web.Visits(); !tt.v4 && !tt.v6 && len(visits) != 0 {
			t.Errorf("%s: the web saw %v", tt.name, visits)
		}
	}
}

// With rp_filter the kernel looks up the way back for every packet, and wg-quick
// makes it do so with the packet's mark.
func TestReversePathFiltersLetDirectPacketsPass(t *testing.T) {
	for _, validMark := range []string{"0", "1"} {
		r := guarded(t)
		r.mark(0x1000000)
		for _, name := range []string{"all", "eth0", "eth1"} {
			r.run("sysctl", "-q", "net.ipv4.conf."+name+".rp_filter=1", "net.ipv4.conf."+name+".src_valid_mark="+validMark)
		}
		for _, network := range []string{"tcp", "udp"} {
			if !r.reaches(network, testnet.Web4) {
				t.Errorf("src_valid_mark=%s: direct %s is blocked", validMark, network)
			}
		}
	}
}

// Redirected packets are the router's own and never meet the rules; without the
// redirect the same packets go nowhere.
func TestRulesLeaveRedirectedPacketsAlone(t *testing.T) {
	r := guarded(t)
	r.mark(0x8000000)
	tor := r.NewServices(r.Router)
	if err := tor.ServeTCPEcho(netip.AddrPortFrom(netip.IPv6Unspecified(), 9040)); err != nil {
		t.Fatal(err)
	}
	r.nft("add rule inet classes redirects meta mark & 0x0f000000 == 0x08000000 meta l4proto tcp redirect to :9040")
	for _, web := range []netip.Addr{testnet.Web4, testnet.Web6} {
		if !r.reaches("tcp", web) {
			t.Errorf("a redirected connection to %s is blocked", web)
		}
	}
	if visits := tor.Visits(); len(visits) != 2 {
		t.Errorf("tor saw %v, want two connections", visits)
	}
	r.nft("flush chain inet classes redirects")
	for _, web := range []netip.Addr{testnet.Web4, testnet.Web6} {
		if !r.blocked("tcp", web) {
			t.Errorf("without its redirect a connection to %s passes", web)
		}
	}
	if visits := r.Web.Visits(); len(visits) != 0 {
		t.Errorf("the web saw %v", visits)
	}
}

// A connection from outside passes to the LAN host; its answers pass once they
// are marked as such.
func TestAnswersToTheOutsideNeedTheirMark(t *testing.T) {
	r := guarded(t)
	server := r.NewServices(r.Client1)
	if err := server.ServeTCPEcho(echo(r.Client1.IPv6)); err != nil {
		t.Fatal(err)
	}
	r.mark(0x3000000)
	if err := testnet.Echo(r.Internet, "tcp", echo(r.Client1.IPv6), timeout); err != nil {
		t.Errorf("inbound answers are blocked: %v", err)
	}
	r.mark(0)
	if err := testnet.Echo(r.Internet, "tcp", echo(r.Client1.IPv6), quiet); err == nil {
		t.Error("unmarked answers pass")
	}
}

// The router goes on to talk with its LAN: ND, addresses, services.
func TestRouterAndLANStillTalk(t *testing.T) {
	r := guarded(t)
	for _, mark := range []uint32{0, 0x2000000} {
		r.mark(mark)
		r.run("ip", "neigh", "flush", "dev", "eth1")
		for _, addr := range []netip.Addr{testnet.LANRouter4, testnet.LANRouter6, testnet.LANRouterULA, testnet.WANRouter6} {
			if _, err := r.Client1.Run(t.Context(), "ping", "-c1", "-W5", addr.String()); err != nil {
				t.Errorf("mark %#x: client cannot reach %s: %v", mark, addr, err)
			}
		}
		for _, addr := range []netip.Addr{r.Client1.IPv4, r.Client1.IPv6, r.Client1.ULA} {
			r.run("ping", "-c1", "-W5", addr.String())
		}
	}
}
