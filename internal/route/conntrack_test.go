package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

func TestFlowsAreThoseOfTheRouter(t *testing.T) {
	r := newRouter(t)
	var want []plan.Flow
	for _, network := range []string{"tcp", "udp"} {
		_, f := r.open(r.Client1, network, echo(testnet.Web4))
		f.ReplyDst = netip.AddrPortFrom(testnet.WANRouter4, f.Src.Port()) // masqueraded, port kept
		want = append(want, f)
		_, f = r.open(r.Client1, network, echo(testnet.Web6))
		want = append(want, f)
	}
	want = append(want, r.ping(testnet.Web4), r.ping(testnet.Web6), r.portForward())

	flows := r.flows()
	for _, w := range want {
		got, ok := find(flows, w)
		if !ok {
			t.Errorf("no flow %s in %v", describe(&w), flows)
			continue
		}
		if diff := cmp.Diff(w, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("flow %s differs (-want +got):\n%s", describe(&w), diff)
		}
	}
	if count := strings.TrimSpace(r.run("conntrack", "-C")); count != fmt.Sprint(len(flows)) {
		t.Errorf("listed %d flows, conntrack counts %s", len(flows), count)
	}
}

func TestDeleteDeletesExactlyTheGiven(t *testing.T) {
	r := newRouter(t)
	var gone, kept []plan.Flow
	for _, network := range []string{"tcp", "udp"} {
		for _, web := range []netip.Addr{testnet.Web4, testnet.Web6} {
			_, f := r.open(r.Client1, network, echo(web))
			gone = append(gone, f)
			_, f = r.open(r.Client1, network, echo(web))
			kept = append(kept, f)
			_, f = r.open(r.Client2, network, echo(web))
			kept = append(kept, f)
		}
	}
	gone = append(gone, r.ping(testnet.Web4), r.ping(testnet.Web6), r.portForward())
	ended := flow(unix.IPPROTO_TCP, "192.168.50.11:1", "51.20.0.80:80")

	r.do(func() error {
		n, err := Delete(append(gone, ended))
		if err == nil && n != len(gone) {
			err = fmt.Errorf("deleted %d flows, want %d", n, len(gone))
		}
		return err
	})
	flows := r.flows()
	for _, f := range gone {
		if _, ok := find(flows, f); ok {
			t.Errorf("flow %s is still there", describe(&f))
		}
	}
	for _, f := range kept {
		if _, ok := find(flows, f); !ok {
			t.Errorf("flow %s is gone, too", describe(&f))
		}
	}
}

// A connection may end between being listed and being deleted.
func TestEntriesThatEndMeanwhileAreNoError(t *testing.T) {
	r := newRouter(t)
	_, f := r.open(r.Client1, "udp", echo(testnet.Web4))
	request := func(ct *conntrack, e *entry) *nl.NetlinkRequest {
		if err := ct.execute(deletion(ct, e), e); err != nil {
			t.Error(err)
		}
		return deletion(ct, e)
	}
	r.do(func() error {
		if n, err := change("delete", among([]plan.Flow{f}), request); n != 0 || err != nil {
			return fmt.Errorf("deleted %d flows: %w", n, err)
		}
		return nil
	})
}

// What the kernel refuses is said, and the rest is done nevertheless.
func TestRefusedChangesAreErrors(t *testing.T) {
	r := newRouter(t)
	var flows []plan.Flow
	for range 3 {
		_, f := r.open(r.Client1, "udp", echo(testnet.Web4))
		flows = append(flows, f)
	}
	spoilt := 0
	request := func(ct *conntrack, e *entry) *nl.NetlinkRequest {
		req := deletion(ct, e)
		if spoilt < 2 {
			spoilt++
			e.tuple = nil // EINVAL
		}
		return req
	}
	r.do(func() error {
		n, err := change("delete", among(flows), request)
		if n != 1 || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "and 1 more") {
			return fmt.Errorf("deleted %d flows: %w", n, err)
		}
		return nil
	})
}

// A user's firewall may track a network in a zone, or only one direction of it.
func TestZonesAreNoHidingPlace(t *testing.T) {
	r := newRouter(t)
	r.nft(`table inet zones {
		chain raw {
			type filter hook prerouting priority -300
			ip saddr 192.168.50.11 ct zone set 7
			ip saddr 192.168.50.12 ct original zone set 8
		}
	}`)
	_, both := r.open(r.Client2, "udp", echo(testnet.Web4)) // answers are found in the default zone
	conn, err := r.Client1.Dial(t.Context(), "udp", echo(testnet.Web4).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	one := plan.Flow{Protocol: unix.IPPROTO_UDP, Src: netip.MustParseAddrPort(conn.LocalAddr().String()), Dst: echo(testnet.Web4)}
	r.waitFor("the flow in zone 7", func(flows []plan.Flow) bool {
		_, ok := find(flows, one)
		return ok
	})
	if zones := r.run("conntrack", "-L", "-p", "udp"); !strings.Contains(zones, "zone=7") || !strings.Contains(zones, "zone-orig=8") {
		t.Fatalf("the zones were not set:\n%s", zones)
	}
	chosen := []plan.Flow{one, both}
	r.do(func() error {
		if n, err := SetMarks(chosen, 3, 3); n != 2 || err != nil {
			return fmt.Errorf("marked %d flows: %w", n, err)
		}
		if n, err := ClearMarks(3, 3); n != 2 || err != nil {
			return fmt.Errorf("unmarked %d flows: %w", n, err)
		}
		if n, err := Delete(chosen); n != 2 || err != nil {
			return fmt.Errorf("deleted %d flows: %w", n, err)
		}
		return nil
	})
	for _, f := range chosen {
		if _, ok := find(r.flows(), f); ok {
			t.Errorf("flow %s is still there", describe(&f))
		}
	}
}

func TestMarksChangeUnderTheirMaskOnly(t *testing.T) {
	const class, mask = 0x03000000, 0x0f000000
	r := newRouter(t)
	// The user's connections carry a mark of his own and a foreign class.
	r.nft(`table inet marks {
		chain post {
			type filter hook postrouting priority 0
			ip saddr 192.168.50.11 ct mark set 0x45000012
			ip6 saddr 2a0d:50::11 ct mark set 0x00000034
		}
	}`)
	_, v4 := r.open(r.Client1, "tcp", echo(testnet.Web4))
	_, v6 := r.open(r.Client1, "udp", echo(testnet.Web6))
	_, other := r.open(r.Client2, "tcp", echo(testnet.Web4))
	ping := r.ping(testnet.Web6)
	r.nft("delete table inet marks")

	check := func(when string, want map[*plan.Flow]uint32) {
		t.Helper()
		flows := r.flows()
		for f, mark := range want {
			if got, ok := find(flows, *f); !ok || got.Mark != mark {
				t.Errorf("%s: mark of %s is %#x (found %v), want %#x", when, describe(f), got.Mark, ok, mark)
			}
		}
	}
	check("at first", map[*plan.Flow]uint32{&v4: 0x45000012, &v6: 0x34, &ping: 0x34, &other: 0})
	r.do(func() error {
		// Value bits outside the mask must not reach the user's.
		if n, err := SetMarks([]plan.Flow{v4, v6, ping}, 0xf0ffffff&^mask|class, mask); n != 3 || err != nil {
			return fmt.Errorf("marked %d flows: %w", n, err)
		}
		return nil
	})
	check("marked", map[*plan.Flow]uint32{&v4: 0x43000012, &v6: 0x03000034, &ping: 0x03000034, &other: 0})
	r.run("conntrack", "-U", "-p", "tcp", "-s", r.Client2.IPv4.String(), "-m", "0x05000056")
	r.do(func() error {
		if n, err := ClearMarks(class, mask); n != 3 || err != nil {
			return fmt.Errorf("unmarked %d flows: %w", n, err)
		}
		return nil
	})
	check("unmarked", map[*plan.Flow]uint32{&v4: 0x40000012, &v6: 0x34, &ping: 0x34, &other: 0x05000056})
}

// A house full of devices has thousands of connections.
func TestThousandsOfFlows(t *testing.T) {
	const count = 4000
	r := newRouter(t)
	conn, err := r.Client1.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for port := range count {
		to := netip.AddrPortFrom(testnet.Web4, uint16(10000+port))
		if _, err := conn.WriteTo([]byte{1}, net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
	}
	_, kept := r.open(r.Client2, "udp", echo(testnet.Web4))
	var mine []plan.Flow
	r.waitFor("all flows", func(flows []plan.Flow) bool {
		mine = slices.DeleteFunc(flows, func(f plan.Flow) bool { return f.Src.Addr() != r.Client1.IPv4 })
		return len(mine) == count
	})
	begin := time.Now()
	r.do(func() error {
		if n, err := SetMarks(mine, 1, 1); n != count || err != nil {
			return fmt.Errorf("marked %d flows: %w", n, err)
		}
		if n, err := Delete(mine); n != count || err != nil {
			return fmt.Errorf("deleted %d flows: %w", n, err)
		}
		return nil
	})
	t.Logf("marking and deleting %d flows took %s", count, time.Since(begin).Round(time.Millisecond))
	if flows := r.flows(); len(flows) > 2 { // kept, perhaps an ICMP error's
		t.Errorf("%d flows are left", len(flows))
	} else if _, ok := find(flows, kept); !ok {
		t.Error("a flow that was not given is gone")
	}
}

// Hidden settings stand for a kernel without conntrack. That there is something to
// list shows that nobody looks.
func TestWithoutConntrackThereAreNoFlows(t *testing.T) {
	enterNamespace(t)
	run(t, `
ip link set lo up
nft add table inet track
nft add chain inet track output { type filter hook output priority 0 ; }
nft add rule inet track output ct state new counter
ping -c1 127.0.0.1
`)
	if flows, err := Flows(); len(flows) == 0 || err != nil {
		t.Fatalf("Flows() = %v, %v", flows, err)
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", "/proc/sys/net/netfilter", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if flows, err := Flows(); len(flows) != 0 || err != nil {
		t.Errorf("Flows() = %v, %v", flows, err)
	}
	f := flow(unix.IPPROTO_TCP, "192.168.50.11:1", "51.20.0.80:80")
	for what, change := range map[string]func() (int, error){
		"Delete":     func() (int, error) { return Delete([]plan.Flow{f}) },
		"SetMarks":   func() (int, error) { return SetMarks([]plan.Flow{f}, 1, 1) },
		"ClearMarks": func() (int, error) { return ClearMarks(1, 1) },
	} {
		if n, err := change(); n != 0 || err != nil {
			t.Errorf("%s() = %d, %v", what, n, err)
		}
	}
}

func TestNothingToDoIsNoError(t *testing.T) {
	enterNamespace(t)
	if n, err := Delete(nil); n != 0 || err != nil {
		t.Errorf("Delete(nil) = %d, %v", n, err)
	}
	if flows, err := Flows(); len(flows) != 0 || err != nil {
		t.Errorf("Flows() of an empty namespace = %v, %v", flows, err)
	}
}

func TestUnreadableEntriesAreErrors(t *testing.T) {
	for _, m := range [][]byte{nil, {2, 0}, {2, 0, 0, 0}, {2, 0, 0, 0, 200, 0, 1, 0, 1}, {2, 0, 0, 0, 4, 0, 1, 0x80}} {
		if e, err := parseEntry(m); err == nil {
			t.Errorf("parseEntry(%v) = %+v", m, e)
		}
	}
}
