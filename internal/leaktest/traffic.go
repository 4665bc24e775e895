package leaktest

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/testnet"
)

// traffic is all senders trying everything without pause, and peers of their old
// connections that go on talking.
type traffic struct {
	lab    *testnet.Lab
	cancel context.CancelFunc
	wg     sync.WaitGroup
	errs   []error        // of each sender
	rounds []atomic.Int64 // of each sender
	honest bool           // no sources but their own
}

// startTraffic has the senders lie about their sources unless they are to be honest:
// where nothing is attached, what answers a lie comes back by the WAN and goes out
// there again.
func startTraffic(ctx context.Context, lab *testnet.Lab, senders []sender, tally *Tally, peers []peer, honest bool) *traffic {
	ctx, cancel := context.WithCancel(ctx)
	t := &traffic{
		lab: lab, cancel: cancel, honest: honest,
		errs: make([]error, len(senders)), rounds: make([]atomic.Int64, len(senders)),
	}
	for i, s := range senders {
		t.wg.Go(func() { t.errs[i] = t.send(ctx, s, tally, &t.rounds[i]) })
		t.wg.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				s.dial(round, tally)
			}
		})
	}
	t.wg.Go(func() { t.talk(ctx, peers) })
	return t
}

// send goes on with round numbers of its own: a battery uses others.
func (t *traffic) send(ctx context.Context, s sender, tally *Tally, rounds *atomic.Int64) error {
	for ctx.Err() == nil {
		round := int(rounds.Load()) + portRounds/2
		probes := s.probes(round)
		if t.honest {
			probes = slices.DeleteFunc(probes, func(p Probe) bool { return p.forged })
		}
		if err := s.send(probes, tally, func() { rest(ctx, time.Millisecond) }); err != nil {
			return err
		}
		rounds.Add(1)
	}
	return nil
}

// rest leaves the processor to others, or the flood would be all there is.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// underWay waits until each sender has gone through all its probes, once more.
func (t *traffic) underWay(ctx context.Context) error {
	want := make([]int64, len(t.rounds))
	for i := range t.rounds {
		want[i] = t.rounds[i].Load() + 2
	}
	return await(ctx, "all senders to have tried everything", func() error {
		for i := range t.rounds {
			if t.rounds[i].Load() < want[i] {
				return errors.New("they have not")
			}
		}
		return nil
	})
}

// stop returns when nobody sends any more.
func (t *traffic) stop() error {
	t.cancel()
	t.wg.Wait()
	return errors.Join(t.errs...)
}

// peer is the far end of a connection that was open when torbpf came. That has
// cut it; whatever the router says to such a peer says on the WAN that it has.
type peer struct {
	protocol uint8
	from, to netip.AddrPort // to: the client, as the internet sees it
	frame    []byte
}

// flow is its key among those that torbpf has cut, as the WAN sees it.
func (p peer) flow() abi.DatapathFlow {
	port := func(a netip.AddrPort) uint16 {
		return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, a.Port()))
	}
	return abi.DatapathFlow{
		NearAddr: p.to.Addr().As16(), NearPortBe: port(p.to), PeerAddr: p.from.Addr().As16(), PeerPortBe: port(p.from), Protocol: uint32(p.protocol),
	}
}

// openConnections connects from a sender to the internet, by TCP and UDP and both
// families, and returns the far ends as the router's WAN sees them.
func openConnections(ctx context.Context, lab *testnet.Lab, s sender) ([]peer, error) {
	lab.Web.Reset()
	var peers []peer
	// A server notes the first datagram of each port only, so one may go unnoticed.
	err := await(ctx, "the far ends to be seen", func() error {
		for _, server := range []netip.Addr{testnet.Other4, testnet.Other6} {
			for _, proto := range []string{"tcp", "udp"} {
				if err := testnet.Echo(s.node(), proto, at(server, testnet.PortEcho), patience); err != nil {
					return err
				}
			}
		}
		peers = nil
		kinds := map[string]bool{}
		for _, v := range lab.Web.Visits() {
			kinds[v.Service+v.Local.String()] = true
			peers = append(peers, newPeer(v))
		}
		if len(kinds) < 4 {
			return errors.New("some have not")
		}
		return nil
	})
	return peers, err
}

// newPeer is the far end of what a server saw.
func newPeer(v testnet.Visit) peer {
	protocol, packet := uint8(unix.IPPROTO_UDP), testnet.UDPDatagram(v.Local, v.Source, []byte("still there?"))
	if v.Service == "tcp-echo" {
		protocol, packet = unix.IPPROTO_TCP, testnet.TCPSegment(v.Local, v.Source, testnet.FlagPSH|testnet.FlagACK, 1, 1, []byte("still there?"))
	}
	etherType := uint16(unix.ETH_P_IP)
	if v.Local.Addr().Is6() {
		etherType = unix.ETH_P_IPV6
	}
	return peer{protocol, v.Local, v.Source, testnet.Frame(mac(testnet.MACWAN), mac(testnet.MACISP), etherType, packet)}
}

const (
	// talkEvery is the time between two packets of a peer.
	talkEvery = 10 * time.Millisecond
	// talkFor is less than the ten minutes for which torbpf is deaf to them; after
	// that they begin something new.
	talkFor = 5 * time.Minute
)

// talk lets the peers go on. While there is no WAN they cannot.
func (t *traffic) talk(ctx context.Context, peers []peer) {
	for end := time.Now().Add(talkFor); ctx.Err() == nil && time.Now().Before(end); {
		for _, p := range peers {
			_ = t.lab.ISP.SendFrame("wan0", p.frame)
		}
		rest(ctx, talkEvery)
	}
}
