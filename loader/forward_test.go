package loader

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// withoutUplinkGuard attaches the guards of a plan but for that at the uplink, behind which
// nothing would be seen of what the others do.
func withoutUplinkGuard(t *testing.T, d *Datapath, p *plan.Plan) *Generation {
	t.Helper()
	g := allGuards(t, d, p)
	if u := g.Unsupported(); len(u) > 0 {
		t.Fatalf("unsupported: %v", u)
	}
	must(t, g.collection.Maps[abi.DatapathMapGates].Put(uint32(0), gateOpen))
	must(t, g.pin())
	for _, u := range p.Uplinks {
		must(t, removeLink(d.linkPin(newHook(KindUplink, u.Index).pin())))
	}
	return g
}

// forwardGuarded sends a packet of a LAN that must not be forwarded.
func forwardGuarded(t *testing.T, d *Datapath, s sender, p datagram, lan int) {
	t.Helper()
	counted(t, d, s, p, lan, abi.VerdictRefused, abi.ReasonForwardGuard)
}

func TestForwardGuardStopsWhatMayNotBeForwarded(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	s, server := l.newSender(t), l.newCapture(t)
	server.arrives(t, s, datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(refusedUDP.to.Addr(), 7002)})
	lan := l.lan.Attrs().Index

	g := withoutUplinkGuard(t, d, l.plan())
	for _, p := range []datagram{refusedUDP, directUDP, torTCP} { // nobody has judged them
		forwardGuarded(t, d, s, p, lan)
	}
	must(t, g.AttachLANs())
	forwardGuarded(t, d, s, torTCP, lan)
	server.arrives(t, s, directUDP)
	server.arrives(t, s, localUDP) // which way it goes is for others to say
	server.arrives(t, routerSender(t), otherUDP)
	if n := server.seen[refusedUDP] + server.seen[torTCP]; n > 0 {
		t.Errorf("at the server arrived %v", server.seen)
	}
}

// What the user's rules exempt, and what an excluded interface is the way for, goes on.
func TestForwardGuardKnowsWhatLetsOut(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	run(t, `
		nft add table ip user
		nft add chain ip user mangle { type filter hook prerouting priority -150 ; }
		nft add rule ip user mangle udp dport 7777 meta mark set 0x125
		nft add rule ip user mangle udp dport 7778 meta mark set 0x126
		nft add rule ip user mangle udp dport 7779 meta mark set 0x04000000
		nft add rule ip user mangle udp dport 7780 meta mark set 0x05000000`)
	to := func(port uint16) datagram {
		return datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(refusedUDP.to.Addr(), port)}
	}
	d := l.open(t, false)
	s, server := l.newSender(t), l.newCapture(t)
	lan := l.lan.Attrs().Index
	p := l.plan()
	p.Rules = config.DirectMarks(config.Mark{Value: 0x25, Mask: 0xff})
	withoutUplinkGuard(t, d, p)
	server.arrives(t, s, to(7777))
	for _, port := range []uint16{7778, 7779, 7780} { // another mark; by no exit; a class that nobody has
		forwardGuarded(t, d, s, to(port), lan)
	}
	p.Rules = config.Rules{config.Direct(config.Entry{Kind: config.KindInterface, Interface: "wan0"})}
	p.Exits = []plan.Exit{{Name: l.wan.Attrs().Name, Index: l.wan.Attrs().Index}}
	withoutUplinkGuard(t, d, p)
	forwardGuarded(t, d, s, to(7777), lan)
	server.arrives(t, s, to(7779))
}

// An interface that was deleted and made anew has another number, and no program. Its name
// is that of the LAN, whatever it was called meanwhile.
func TestForwardGuardKnowsALANByItsName(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	withoutUplinkGuard(t, d, l.plan())
	must(t, netlink.LinkDel(l.lan))
	l.makeLAN(t, l.lan.Attrs().Index+20)
	s, server := l.newSender(t), l.newCapture(t)
	forwardGuarded(t, d, s, refusedUDP, l.lan.Attrs().Index)

	must(t, netlink.LinkSetName(l.lan, "another-name-15"))
	server.arrives(t, s, otherUDP) // of no LAN that anybody knows
	must(t, netlink.LinkSetName(l.lan, "lan0"))
	forwardGuarded(t, d, s, refusedUDP, l.lan.Attrs().Index)
}

// TestForwardGuardByItself is that of a block: it knows names alone.
func TestForwardGuardByItself(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	s, server := l.newSender(t), l.newCapture(t)
	block := plan.Block(config.Config{Interfaces: []string{"lan0"}, MarkShift: 24})
	if lacksNetfilter() {
		if guarded, err := d.GuardForward(block); guarded || err != nil {
			t.Fatalf("a kernel without such programs: %t, %v", guarded, err)
		}
		return
	}
	server.arrives(t, s, otherUDP)
	for range 2 { // once more in the place of the first
		guarded, err := d.GuardForward(block)
		if !guarded || err != nil {
			t.Fatalf("the guard is not attached: %t, %v", guarded, err)
		}
	}
	dropped := func() int {
		before := server.seen[otherUDP]
		must(t, s.send(otherUDP))
		server.arrives(t, routerSender(t), datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(otherAddr + ":7003")})
		return server.seen[otherUDP] - before
	}
	if n := dropped(); n > 0 {
		t.Errorf("%d packets of a blocked interface arrived", n)
	}
	withoutUplinkGuard(t, d, l.plan()) // what knows more takes its place, and gives it back
	forwardGuarded(t, d, s, refusedUDP, l.lan.Attrs().Index)
	must(t, d.Withdraw())
	if n := dropped(); n > 0 {
		t.Errorf("%d packets of a blocked interface arrived when the rest was withdrawn", n)
	}
	must(t, d.Remove())
	server.arrives(t, s, otherUDP)
}

// TestForwardGuardIsMissed when one of its pins is gone.
func TestForwardGuardIsMissed(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	attachLANs(t, allGuards(t, d, l.plan()))
	for _, pin := range []string{GuardForward4, GuardForward6} {
		must(t, os.Remove(d.linkPin(pin)))
		missing, err := d.Missing(l.plan())
		if fmt.Sprint(missing) != "["+pin+"]" || err != nil {
			t.Errorf("missing is %v, %v, want %s", missing, err, pin)
		}
		allGuards(t, d, l.plan())
	}
}

// TestNamesOfLANsAreFound whatever bits they have: the loader and the program agree on these.
func TestNamesOfLANsAreFound(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	s := l.newSender(t)
	p := plan.Block(config.Config{MarkShift: 24})
	for _, name := range []string{"e", "eth12345", "enp0s31f6", "wan-of-15-chars", "wlx00c0caabcdef"} {
		p.Waiting = []string{name}
		must(t, allGuards(t, d, p).pin())
		must(t, netlink.LinkSetName(l.lan, name))
		forwardGuarded(t, d, s, refusedUDP, l.lan.Attrs().Index)
	}
}
