package loader

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

func TestUplinkGuardStopsWhatALANMayNotSend(t *testing.T) {
	for _, mode := range modes {
		for _, masquerade := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, masquerade %t", mode.name, masquerade), func(t *testing.T) {
				l := newLab(t)
				source := netip.MustParseAddr(clientAddr)
				if masquerade {
					masqueradeUplink(t)
					source = netip.MustParseAddr(wanAddr)
				}
				d := l.open(t, mode.clsact)
				s, server := l.newSender(t), l.newCapture(t)
				// Nothing is attached, ARP is done. What waited for that may arrive
				// later, so this is a packet that nobody counts.
				server.arrives(t, s, datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(refusedUDP.to.Addr(), 7002)})

				g := guards(t, d, l.plan())
				must(t, g.collection.Maps[abi.DatapathMapGates].Put(uint32(0), gateOpen))
				must(t, g.pin())
				wan := l.wan.Attrs().Index
				for _, p := range []datagram{refusedUDP, directUDP, torTCP} { // nobody has judged them
					counted(t, d, s, p, wan, abi.VerdictRefused, abi.ReasonUplinkGuard)
				}
				must(t, g.AttachLANs())
				for _, p := range []datagram{torTCP, localUDP} { // their class forbids it
					counted(t, d, s, p, wan, abi.VerdictRefused, abi.ReasonUplinkGuard)
				}
				server.arrives(t, s, directUDP)
				if server.from[directUDP] != source {
					t.Errorf("a direct packet came from %s, want %s", server.from[directUDP], source)
				}
				own := routerSender(t)
				server.arrives(t, own, otherUDP)
				if n := server.seen[refusedUDP] + server.seen[torTCP] + server.seen[localUDP]; n > 0 {
					t.Errorf("at the server arrived %v", server.seen)
				}
			})
		}
	}
}

func masqueradeUplink(t *testing.T) {
	t.Helper()
	run(t, `
		nft add table ip user
		nft add chain ip user post { type nat hook postrouting priority 100 ; }
		nft add rule ip user post oifname wan0 masquerade`)
}

// otherUDP would be refused if it came from the LAN.
var otherUDP = datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(otherAddr + ":7001")}

// routerSender sends from the router itself.
func routerSender(t *testing.T) sender {
	t.Helper()
	fd, err := rawSocket()
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return sender{fd: fd, from: netip.MustParseAddr(wanAddr)}
}

// A user's own rules mark packets long after tc has seen them.
func TestExemptMarkPassesTheUplinkGuard(t *testing.T) {
	l := newLab(t)
	run(t, `
		nft add table ip user
		nft add chain ip user mangle { type filter hook prerouting priority -150 ; }
		nft add rule ip user mangle udp dport 7777 meta mark set 0x125
		nft add rule ip user mangle udp dport 7778 meta mark set 0x126`)
	d := l.open(t, false)
	p := l.plan()
	p.Rules = config.DirectMarks(config.Mark{Value: 0x25, Mask: 0xff})
	apply(t, d, p)
	s, server := l.newSender(t), l.newCapture(t)
	exempt := datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(otherAddr + ":7777")}
	marked := datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(otherAddr + ":7778")}
	server.arrives(t, s, exempt)
	lan, wan := l.lan.Attrs().Index, l.wan.Attrs().Index
	for _, p := range []datagram{marked, refusedUDP} { // another mark; none at all
		counted(t, d, s, p, wan, abi.VerdictRefused, abi.ReasonUplinkGuard)
	}
	if packets(t, d, lan, abi.VerdictPending, abi.ReasonLateMark) < 3 {
		t.Error("the LAN program did not wait for late marks")
	}
	apply(t, d, l.plan()) // without the exemption
	before := server.seen[exempt]
	counted(t, d, s, exempt, lan, abi.VerdictRefused, abi.ReasonUDP)
	server.arrives(t, s, directUDP)
	if server.seen[exempt] != before {
		t.Error("the packet arrived though its mark is exempt no more")
	}
}

func TestMarkShiftMovesOurBits(t *testing.T) {
	for _, shift := range []uint8{0, 16} {
		t.Run(fmt.Sprint(shift), func(t *testing.T) {
			l := newLab(t)
			marks := observe(t, l.lan)
			d := l.open(t, false)
			apply(t, d, l.plan())
			marks.forget(t)
			p := l.plan()
			p.Mark = plan.Mark{Shift: shift}
			apply(t, d, p)
			s, server := l.newSender(t), l.newCapture(t)
			server.arrives(t, s, directUDP)
			counted(t, d, s, torTCP, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonUplinkGuard)
			marks.awaitMark(t, 1<<shift)
			marks.awaitMark(t, 8<<shift)
			marks.never(t, 1<<24, 8<<24)
		})
	}
}
