package loader

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// Each upgrade happens under a flood of UDP, which the LAN program refuses,
// and of TCP, which it passes on and the guards behind it refuse. Every packet
// must have met a program: one that is not counted was let through.
func TestUpgradeIsNeverOpen(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			l.upgradeUnderFlood(t, d, func(int) *Datapath { return d })
			expectAttachments(t, d, l.attachments(mode.clsact))
		})
	}
}

func TestSwitchingBetweenTCXAndClsactIsNeverOpen(t *testing.T) {
	needTCX(t)
	l := newLab(t)
	d := l.open(t, false)
	l.upgradeUnderFlood(t, d, func(i int) *Datapath {
		return Open(Options{Root: l.root, Namespace: "lab", Clsact: i%2 == 0})
	})
	expectAttachments(t, d, l.attachments(false))
}

func TestOvertakingForeignProgramsIsNeverOpen(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			l.upgradeUnderFlood(t, d, func(i int) *Datapath {
				l.putAhead(t, newForeign(t, next), mode.clsact, uint32(i+1))
				return d
			})
			expectAttachments(t, d, l.attachments(mode.clsact))
		})
	}
}

// putAhead attaches a foreign program ahead of ours at both guarded hooks.
func (l *lab) putAhead(t *testing.T, f *foreign, clsact bool, handle uint32) {
	t.Helper()
	if !clsact && kernelHasTCX() {
		f.attachTCX(t, l.lan, ebpf.AttachTCXIngress)
		f.attachTCX(t, l.wan, ebpf.AttachTCXEgress)
		return
	}
	in, out := f.filter(l.lan, filterPriority), f.filter(l.wan, filterPriority)
	in.Handle, out.Handle, out.Parent = handle, handle, netlink.HANDLE_MIN_EGRESS
	must(t, netlink.FilterAdd(in))
	must(t, netlink.FilterAdd(out))
}

// exchanges are what attaching may have to do at a hook, over and over: a packet
// that is past the place of the new program must still find the old one there.
var exchanges = []struct {
	name     string
	tcx      bool // needs it
	exchange func(t *testing.T, l *lab, h hook, turn int, g *Generation)
}{
	{"updating a link", true, func(t *testing.T, _ *lab, h hook, _ int, g *Generation) {
		attachBy(t, g, h, false)
	}},
	{"updating a filter", false, func(t *testing.T, _ *lab, h hook, _ int, g *Generation) {
		attachBy(t, g, h, true)
	}},
	{"switching", true, func(t *testing.T, _ *lab, h hook, turn int, g *Generation) {
		attachBy(t, g, h, turn%2 == 0)
	}},
	{"overtaking a link", true, func(t *testing.T, l *lab, h hook, _ int, g *Generation) {
		ahead := newForeign(t, next).attachTCX(t, l.wan, h.attachType())
		attachBy(t, g, h, false)
		must(t, ahead.Close())
	}},
	{"overtaking a filter", false, func(t *testing.T, l *lab, h hook, _ int, g *Generation) {
		ahead := newForeign(t, next).filter(l.wan, filterPriority)
		ahead.Parent = h.parent()
		must(t, netlink.FilterAdd(ahead))
		attachBy(t, g, h, true)
		must(t, netlink.FilterDel(ahead))
	}},
}

func attachBy(t *testing.T, g *Generation, h hook, clsact bool) {
	t.Helper()
	d := *g.datapath
	d.clsact = clsact
	by := *g
	by.datapath = &d
	must(t, by.attach(h, programUplink))
}

func TestExchangingProgramsOverAndOverIsNeverOpen(t *testing.T) {
	for _, c := range exchanges {
		t.Run(c.name, func(t *testing.T) {
			if c.tcx {
				needTCX(t)
			}
			l := newLab(t)
			d := l.open(t, !c.tcx)
			apply(t, d, l.plan())
			generations := []*Generation{guards(t, d, l.plan()), guards(t, d, l.plan())}
			s, server := l.newSender(t), l.newCapture(t)
			server.arrives(t, s, directUDP) // ARP is done
			f := l.startFlood(t, d, s)
			h := newHook(KindUplink, l.wan.Attrs().Index)
			for turn := range 100 {
				c.exchange(t, l, h, turn, generations[turn%2])
			}
			f.stop(t)
			server.arrives(t, s, directUDP)
			if n := server.seen[torTCP]; n > 0 {
				t.Errorf("%d packets reached the server", n)
			}
		})
	}
}

const upgrades = 8

// upgradeUnderFlood applies plans, by turns with one exclusion more.
func (l *lab) upgradeUnderFlood(t *testing.T, d *Datapath, next func(int) *Datapath) {
	t.Helper()
	apply(t, d, l.plan())
	s, server := l.newSender(t), l.newCapture(t)
	server.arrives(t, s, directUDP) // ARP is done
	f := l.startFlood(t, d, s)
	for i := range upgrades {
		before := f.rounds.Load()
		p := l.plan()
		if i%2 == 0 {
			p.Rules = config.DirectPrefixes(config.KindDestination, prefixes("62.10.9.0/24", "62.10.10.0/24")...)
		}
		apply(t, next(i), p)
		await(t, "flood to go on", func() bool { return f.rounds.Load() > before+1 || f.failed.Load() })
	}
	f.stop(t)
	server.arrives(t, s, directUDP)
	if n := server.seen[refusedUDP] + server.seen[torTCP]; n > 0 {
		t.Errorf("%d packets reached the server", n)
	}
}

// flood sends rounds of packets, each when the last is accounted for: more
// would overflow the kernel's queues, and a lost packet looks like a leak.
type flood struct {
	rounds   atomic.Int64
	failed   atomic.Bool
	ending   atomic.Bool
	done     chan struct{}
	sent     uint64 // of each kind
	refused  uint64 // counted, of the UDP
	guarded  uint64 // counted, of the TCP
	err      error
	counters *ebpf.Map
}

func (l *lab) startFlood(t *testing.T, d *Datapath, s sender) *flood {
	t.Helper()
	lan, wan := uint32(l.lan.Attrs().Index), uint32(l.wan.Attrs().Index)
	counted(t, d, s, refusedUDP, int(lan), abi.VerdictRefused, abi.ReasonUDP)
	counted(t, d, s, torTCP, int(wan), abi.VerdictRefused, abi.ReasonUplinkGuard)
	m, err := d.openMap(abi.DatapathMapCounters)
	must(t, err)
	f := &flood{counters: m, done: make(chan struct{}), sent: 1}
	go func() {
		defer close(f.done)
		for !f.ending.Load() && f.err == nil {
			f.err = f.round(s, lan, wan)
			f.rounds.Add(1)
		}
		f.failed.Store(f.err != nil)
	}()
	t.Cleanup(func() { f.ending.Store(true); <-f.done; m.Close() })
	return f
}

func (f *flood) round(s sender, lan, wan uint32) error {
	const packets = 64
	for range packets {
		if err := errors.Join(s.send(refusedUDP), s.send(torTCP)); err != nil {
			return err
		}
	}
	f.sent += packets
	deadline := time.Now().Add(5 * time.Second)
	for {
		var err error
		f.refused, err = f.count(lan, abi.ReasonUDP)
		if err != nil {
			return err
		}
		f.guarded, err = f.countGuarded(lan, wan)
		switch {
		case err != nil:
			return err
		case f.refused == f.sent && f.guarded == f.sent:
			return nil
		case f.refused > f.sent || f.guarded > f.sent || time.Now().After(deadline):
			return fmt.Errorf("of %d packets each, the LAN program refused %d of UDP and the guards %d of TCP",
				f.sent, f.refused, f.guarded)
		}
		runtime.Gosched()
	}
}

// countGuarded counts what either guard has stopped: that of what is forwarded is there for
// an instant of each upgrade.
func (f *flood) countGuarded(lan, wan uint32) (uint64, error) {
	uplink, err := f.count(wan, abi.ReasonUplinkGuard)
	if err != nil {
		return 0, err
	}
	forward, err := f.count(lan, abi.ReasonForwardGuard)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return uplink, nil
	}
	return uplink + forward, err
}

func (f *flood) count(ifindex uint32, reason abi.Reason) (uint64, error) {
	var perCPU []abi.DatapathCounter
	key := abi.DatapathCounterKey{Ifindex: ifindex, Verdict: abi.VerdictRefused, Reason: reason}
	if err := f.counters.Lookup(key, &perCPU); err != nil {
		return 0, fmt.Errorf("read counter: %w", err)
	}
	var sum uint64
	for _, c := range perCPU {
		sum += c.Packets
	}
	return sum, nil
}

func (f *flood) stop(t *testing.T) {
	t.Helper()
	f.ending.Store(true)
	<-f.done
	if f.err != nil {
		t.Error(f.err)
	}
	t.Logf("%d packets of each kind were sent", f.sent)
}
