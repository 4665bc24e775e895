package loader

import (
	"flag"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

var swaps = flag.Int("swaps", 40, "how often TestEachPacketMeetsOnePolicy changes the policy")

// keys is how many rules change with each policy.
const keys = 10

// either returns two policies under both of which all packets of ofEither are direct,
// but of each packet one policy says so of its destination and the other of its port.
// Half of one and half of the other would refuse some.
func either(t *testing.T, odd int) config.Rules {
	t.Helper()
	var rules config.Rules
	for i := range keys {
		kind, match := config.KindDestination, ofEither(i).to.Addr().String()
		if i%2 == odd {
			kind, match = config.KindPort, fmt.Sprintf("%d/udp", ofEither(i).to.Port())
		}
		e, err := config.ParseEntry(kind, match)
		must(t, err)
		rules = append(rules, config.Direct(e))
	}
	return rules.Normalized()
}

func ofEither(i int) datagram {
	addr := netip.AddrFrom4([4]byte{62, 10, 7, byte(100 + i)})
	return datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(addr, uint16(7100+i))}
}

// TestEachPacketMeetsOnePolicy, wholly: ten rules change in opposite directions while
// packets arrive as fast as one processor sends them.
func TestEachPacketMeetsOnePolicy(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	p.Rules = either(t, 0)
	apply(t, d, p)
	s := l.newSender(t)
	l.newCapture(t).arrives(t, s, ofEither(0)) // ARP is done

	var stop atomic.Bool
	sent, done := 1, make(chan error, 1)
	go func() {
		var err error
		for ; !stop.Load() && err == nil; sent++ {
			err = s.send(ofEither(sent % keys))
		}
		done <- err
	}()
	t.Cleanup(func() { stop.Store(true) })
	begin := time.Now()
	for i := range *swaps {
		p := l.plan()
		p.Rules = either(t, (i+1)%2)
		g, err := d.ApplyGuards(p) // closed at once, as commands do: a thousand are too many to hold
		must(t, err)
		attachLANs(t, g)
		must(t, g.Close())
	}
	took := time.Since(begin)
	stop.Store(true)
	must(t, <-done)
	lan := l.lan.Attrs().Index
	direct := func() uint64 {
		return packets(t, d, lan, abi.VerdictDirect, abi.ReasonDirectDestination) + packets(t, d, lan, abi.VerdictDirect, abi.ReasonDirectPort)
	}
	await(t, "all packets to be counted", func() bool { return direct()+packets(t, d, lan, abi.VerdictRefused, abi.ReasonUDP) == uint64(sent) })
	if refused := packets(t, d, lan, abi.VerdictRefused, abi.ReasonUDP); refused > 0 {
		t.Errorf("%d of %d packets met half of each policy", refused, sent)
	}
	t.Logf("%d packets while the policy changed %d times in %v: %.0f a second", sent, *swaps, took.Round(time.Millisecond), float64(sent)/took.Seconds())
}
