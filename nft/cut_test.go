package nft

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// flowTo is the flow as conntrack would tell it: the client behind the WAN
// address (IPv4 is masqueraded, IPv6 is not).
func flowTo(protocol uint8, peer, reply net.Addr) plan.Flow {
	from, to := netip.MustParseAddrPort(peer.String()), netip.MustParseAddrPort(reply.String())
	return plan.Flow{Protocol: protocol, Src: to, Dst: from, ReplySrc: from, ReplyDst: to}
}

// TestACutPeerHearsNothing: no reset, no ICMP error, no acknowledgement.
func TestACutPeerHearsNothing(t *testing.T) {
	for _, test := range []struct{ client, outside string }{
		{client4, outside4},
		{client6, outside6},
	} {
		t.Run(test.outside, func(t *testing.T) {
			l := newLab(t)
			l.apply(l.plan())
			l.classify(`iifname "lan0"`, abi.VerdictDirect)
			host, server := net.JoinHostPort(test.client, "0"), net.JoinHostPort(test.outside, "80")
			_, tcp := l.connection(host, server)
			udp := l.exchange(host, server)
			heard := l.outside.countAll(t)
			l.classifyAll()
			l.addCut(plan.CutTime, flowTo(unix.IPPROTO_TCP, tcp.LocalAddr(), tcp.RemoteAddr()), flowTo(unix.IPPROTO_UDP, udp.server.LocalAddr(), udp.peer))
			l.conntrack("-F")

			l.mustDrop(DroppedCutPeer, "data of the old TCP connection", func(context.Context) (string, error) {
				_, err := io.WriteString(tcp, "still there?")
				return "written", errOr(err)
			})
			l.mustDrop(DroppedCutPeer, "data of the old UDP flow", func(context.Context) (string, error) {
				_, err := udp.server.WriteTo([]byte("still there?"), udp.peer)
				return "written", errOr(err)
			})
			// A FIN belongs to no connection that conntrack would begin anew.
			l.mustDrop(DroppedCutPeer, "the end of the old TCP connection", func(context.Context) (string, error) {
				return "closed", errOr(tcp.Close())
			})
			if got := heard(); got != 0 {
				t.Errorf("the peer heard %d packets", got)
			}
		})
	}
}

// TestACutExpires: afterwards a stranger's packet is the user's business again.
func TestACutExpires(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.classify(`iifname "lan0"`, abi.VerdictDirect)
	udp := l.exchange(client4+":0", outside4+":80")
	heard := l.outside.countAll(t)
	l.addCut(time.Second, flowTo(unix.IPPROTO_UDP, udp.server.LocalAddr(), udp.peer))
	l.conntrack("-F")
	send := func() {
		if _, err := udp.server.WriteTo([]byte("still there?"), udp.peer); err != nil {
			t.Fatal(err)
		}
	}
	l.mustDrop(DroppedCutPeer, "data of the old flow", func(context.Context) (string, error) {
		send()
		return "written", errOr(nil)
	})
	if got := heard(); got != 0 {
		t.Fatalf("the peer heard %d packets", got)
	}
	l.eventually("the router answers that nobody listens there", func() bool {
		send()
		return heard() > 0
	})
}

// TestOthersAreNotCut: another port of the same peer is another flow.
func TestOthersAreNotCut(t *testing.T) {
	l := newLab(t)
	l.apply(l.plan())
	l.serve(l.client, "tcp", ":80", "client")
	l.serve(nil, "tcp", ":22", "router")
	flows := someFlows(20)
	l.addCut(plan.CutTime, flows...)
	l.mustAnswer("router", l.outside, "tcp", wan4+":22")
	l.classifyAll()
	l.mustAnswer("client", l.outside, "tcp", wan4+":8080")
}

// TestApplyKeepsCutPeersForTheRestOfTheirTime, thousands of them.
func TestApplyKeepsCutPeersForTheRestOfTheirTime(t *testing.T) {
	enterFreshNetNS(t)
	if err := Apply(fullPlan()); err != nil {
		t.Fatal(err)
	}
	const flows = 2000
	v4, v6 := someFlows(flows), someFlows(flows)
	for i := range v6 {
		v6[i].ReplySrc = netip.AddrPortFrom(netip.MustParseAddr(outside6), v6[i].ReplySrc.Port())
		v6[i].ReplyDst = netip.AddrPortFrom(netip.MustParseAddr(client6), v6[i].ReplyDst.Port())
	}
	for _, f := range [][]plan.Flow{v4, v6} {
		if err := addCut(f, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	left := map[string]time.Duration{setCut4: time.Minute, setCut6: time.Minute}
	for range 3 {
		if err := Apply(fullPlan()); err != nil {
			t.Fatal(err)
		}
		wantDifferences(t, fullPlan())
		for name := range left {
			elements := cutElementsOf(t, name)
			if len(elements) != flows {
				t.Fatalf("set %s has %d elements, want %d", name, len(elements), flows)
			}
			longest := time.Duration(0)
			for _, e := range elements {
				longest = max(longest, e.Expires)
			}
			if longest > left[name] || longest == 0 {
				t.Errorf("set %s: %s left, but %s were left before", name, longest, left[name])
			}
			left[name] = longest
		}
	}
}

// TestAddCutTakesAWholeConntrackTable, twice the same as well.
func TestAddCutTakesAWholeConntrackTable(t *testing.T) {
	enterFreshNetNS(t)
	if err := Apply(minimalPlan()); err != nil {
		t.Fatal(err)
	}
	var flows []plan.Flow
	for i := range 70000 {
		f := someFlows(1)[0]
		f.ReplyDst = netip.AddrPortFrom(f.ReplyDst.Addr(), uint16(i))
		f.Protocol = []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP}[i>>16]
		flows = append(flows, f)
	}
	for range 2 {
		if err := AddCut(flows); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(cutElementsOf(t, setCut4)); got != len(flows) {
		t.Errorf("%d elements, want %d", got, len(flows))
	}
	if err := Apply(minimalPlan()); err != nil {
		t.Fatal(err)
	}
	if got := len(cutElementsOf(t, setCut4)); got != len(flows) {
		t.Errorf("%d elements after Apply, want %d", got, len(flows))
	}
}

// TestCutIsWhatWasAdded as far as the WAN sees it.
func TestCutIsWhatWasAdded(t *testing.T) {
	l := newLab(t)
	if flows, err := Cut(); err != nil || len(flows) > 0 {
		t.Errorf("without a table: %v, %v", flows, err)
	}
	l.apply(l.plan())
	flows := someFlows(2)
	flows[1].Protocol = unix.IPPROTO_UDP
	flows[1].ReplySrc, flows[1].ReplyDst = netip.MustParseAddrPort("[2600::1]:443"), netip.MustParseAddrPort("["+client6+"]:50000")
	l.addCut(plan.CutTime, flows...)
	got, err := Cut()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		if !slices.ContainsFunc(got, func(g plan.Flow) bool {
			return g.Protocol == f.Protocol && g.ReplySrc == f.ReplySrc && g.ReplyDst == f.ReplyDst
		}) {
			t.Errorf("%v is not among %v", f, got)
		}
	}
	if len(got) != len(flows) {
		t.Errorf("%d flows, want %d", len(got), len(flows))
	}
}

func TestAddCutWithoutATableSaysSo(t *testing.T) {
	enterFreshNetNS(t)
	if err := AddCut(someFlows(1)); err == nil {
		t.Error("no error")
	}
}

// TestFlowsWithoutPortsAreLeftOut together with tuples that are none.
func TestFlowsWithoutPortsAreLeftOut(t *testing.T) {
	good := someFlows(1)[0]
	icmp, mixed, empty := good, good, plan.Flow{Protocol: unix.IPPROTO_TCP}
	icmp.Protocol = unix.IPPROTO_ICMP
	icmp.ReplySrc, icmp.ReplyDst = netip.AddrPortFrom(good.ReplySrc.Addr(), 0), netip.AddrPortFrom(good.ReplyDst.Addr(), 0)
	mixed.ReplyDst = netip.MustParseAddrPort("[" + client6 + "]:80")
	got := cutElements([]plan.Flow{icmp, good, mixed, empty}, plan.CutTime)
	if len(got) != 1 || len(got[setCut4]) != 1 {
		t.Errorf("elements %v, want the one of TCP", got)
	}
}

// addCut is AddCut with another time.
func (l *lab) addCut(timeout time.Duration, flows ...plan.Flow) {
	l.t.Helper()
	if err := addCut(flows, timeout); err != nil {
		l.t.Fatal(err)
	}
}

// countAll counts everything that arrives at the node but neighbour discovery.
func (n *node) countAll(t *testing.T) func() int {
	return n.count(t, "prerouting", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } return; meta nfproto { ipv4, ipv6 }")
}

// datagrams is a UDP flow, seen from outside.
type datagrams struct {
	server net.PacketConn
	peer   net.Addr
}

// exchange sends a datagram each way between the client and outside.
func (l *lab) exchange(from, to string) datagrams {
	l.t.Helper()
	d := datagrams{}
	err := l.outside.do(func() (err error) {
		d.server, err = net.ListenPacket("udp", to)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { d.server.Close() })
	var conn net.Conn
	err = l.client.do(func() (err error) {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	for _, c := range []interface{ SetDeadline(time.Time) error }{conn, d.server} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			l.t.Fatal(err)
		}
	}
	buf := make([]byte, 8)
	if _, err := conn.Write([]byte("hello")); err != nil {
		l.t.Fatal(err)
	}
	if _, d.peer, err = d.server.ReadFrom(buf); err != nil {
		l.t.Fatal(err)
	}
	if _, err := d.server.WriteTo([]byte("hello"), d.peer); err != nil {
		l.t.Fatal(err)
	}
	if _, err := conn.Read(buf); err != nil {
		l.t.Fatal(err)
	}
	return d
}

// errOr makes "sent, and nothing came back" a failure for mustDrop.
func errOr(err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("no answer expected")
}
