package loader

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// runs is how often a pinned program has run since statistics are on.
func runs(t *testing.T, d *Datapath, name string) uint64 {
	t.Helper()
	program, err := ebpf.LoadPinnedProgram(d.programPin(name), nil)
	must(t, err)
	defer program.Close()
	stats, err := program.Stats()
	must(t, err)
	return stats.RunCount
}

// hasXDP tells whether an interface has an XDP program of anybody's.
func hasXDP(t *testing.T, l netlink.Link) bool {
	t.Helper()
	now, err := netlink.LinkByIndex(l.Attrs().Index)
	must(t, err)
	return now.Attrs().Xdp != nil && now.Attrs().Xdp.Attached
}

func expectEarly(t *testing.T, d *Datapath, l netlink.Link, want plan.Early) {
	t.Helper()
	if got, err := d.Early(l.Attrs().Index); err != nil || got != want || hasXDP(t, l) != (want != plan.EarlyOff) {
		t.Errorf("early refusal is %v, %v, and a program is there: %v; want %v", got, err, hasXDP(t, l), want)
	}
}

// TestEarlyRefusal: with the XDP program everything gets where it gets without it, and is
// counted once; but what floods ends there.
func TestEarlyRefusal(t *testing.T) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	must(t, err)
	defer stats.Close()
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	s, server := l.newSender(t), l.newCapture(t)
	lan := l.lan.Attrs().Index
	for _, mode := range []plan.Early{plan.EarlyNative, plan.EarlyGeneric, plan.EarlyNative} {
		p.LANs[0].Early = mode
		apply(t, d, p)
		expectEarly(t, d, l.lan, mode)
		server.arrives(t, s, directUDP)
		counted(t, d, s, directUDP, lan, abi.VerdictDirect, abi.ReasonDirectDestination)
		counted(t, d, s, torTCP, lan, abi.VerdictTor, abi.ReasonTCP)
		counted(t, d, s, localUDP, lan, abi.VerdictLocal, abi.ReasonLocalSubnet)

		const flood = 2000
		refused := packets(t, d, lan, abi.VerdictRefused, abi.ReasonUDP)
		early, late := runs(t, d, programEarly), runs(t, d, programLAN)
		for range flood {
			must(t, s.send(refusedUDP))
		}
		await(t, "all of the flood to be counted", func() bool {
			return packets(t, d, lan, abi.VerdictRefused, abi.ReasonUDP) == refused+flood
		})
		early, late = runs(t, d, programEarly)-early, runs(t, d, programLAN)-late
		t.Logf("%v: of %d packets the LAN program saw %d", mode, flood, late)
		if early < flood || late > flood/2 {
			t.Errorf("%v: of %d packets the XDP program saw %d, the LAN program %d", mode, flood, early, late)
		}
		apply(t, d, p) // the program under the link is exchanged
		expectEarly(t, d, l.lan, mode)
	}
	p.LANs[0].Early = plan.EarlyOff
	apply(t, d, p)
	expectEarly(t, d, l.lan, plan.EarlyOff)
	server.read()
	if n := server.seen[refusedUDP] + server.seen[torTCP] + server.seen[localUDP]; n > 0 {
		t.Errorf("%d packets got out", n)
	}
}

// TestForeignXDPStays: torbpf does without its own where somebody else's is, and says so.
func TestForeignXDPStays(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	must(t, err)
	defer program.Close()
	theirs, err := link.AttachXDP(link.XDPOptions{Interface: l.lan.Attrs().Index, Program: program, Flags: link.XDPDriverMode})
	must(t, err)
	defer theirs.Close()
	p := l.plan()
	for _, mode := range []plan.Early{plan.EarlyNative, plan.EarlyGeneric} {
		p.LANs[0].Early = mode
		g := guards(t, d, p)
		attachLANs(t, g)
		if why := g.NoEarly()[l.lan.Attrs().Index]; why == "" {
			t.Errorf("%v: no reason why there is none", mode)
		}
		if got, err := d.Early(l.lan.Attrs().Index); err != nil || got != plan.EarlyOff {
			t.Errorf("%v: it is there as %v, %v", mode, got, err)
		}
	}
	s := l.newSender(t)
	l.newCapture(t).arrives(t, s, directUDP)
	counted(t, d, s, refusedUDP, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonUDP)
	info, err := theirs.Info()
	must(t, err)
	if xdp := info.XDP(); xdp == nil || xdp.Ifindex != uint32(l.lan.Attrs().Index) {
		t.Error("their program is gone")
	}
}

// strangePolicy is a load of the XDP program whose policy lets out what the lab's refuses,
// which says that it is of some generation.
func strangePolicy(t *testing.T, p *plan.Plan, generation uint64) *ebpf.Program {
	t.Helper()
	spec, err := abi.LoadDatapath()
	must(t, err)
	must(t, setVariables(spec, p))
	must(t, spec.Variables[abi.DatapathVarGeneration].Set(generation))
	lax := *p
	lax.Rules = config.DirectPrefixes(config.KindDestination, netip.PrefixFrom(refusedUDP.to.Addr(), 24).Masked())
	collection, err := loadCollection(spec, nil)
	must(t, err)
	t.Cleanup(collection.Close)
	must(t, fillMaps(collection.Maps, &lax))
	return collection.Programs[programEarly]
}

// TestHandedOnIsBelieved only of the XDP program of the same load, about the same packet.
func TestHandedOnIsBelieved(t *testing.T) {
	needTCX(t)
	l := newLab(t)
	d, p := l.open(t, false), l.plan()
	g := guards(t, d, p)
	attachLANs(t, g)
	var own uint64
	must(t, g.collection.Variables[abi.DatapathVarGeneration].Get(&own))
	s, server := l.newSender(t), l.newCapture(t)
	lan := l.lan.Attrs().Index
	server.arrives(t, s, directUDP)
	under := func(generation uint64, check func()) {
		t.Helper()
		early, err := link.AttachXDP(link.XDPOptions{Interface: lan, Program: strangePolicy(t, p, generation), Flags: link.XDPDriverMode})
		must(t, err)
		check()
		must(t, early.Close())
	}
	under(own, func() { counted(t, d, s, refusedUDP, lan, abi.VerdictDirect, abi.ReasonDirectDestination) })
	for _, generation := range []uint64{own + 1, 0} {
		under(generation, func() { counted(t, d, s, refusedUDP, lan, abi.VerdictRefused, abi.ReasonUDP) })
	}
	defer rewritePort(t, l.lan, refusedUDP.to.Port()+1).Close()
	under(own, func() { counted(t, d, s, refusedUDP, lan, abi.VerdictRefused, abi.ReasonUDP) })
}

// rewritePort puts a program ahead of ours that sends all UDP to another port.
func rewritePort(t *testing.T, l netlink.Link, port uint16) link.Link {
	t.Helper()
	const offsetPort = 14 + 20 + 2
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -8, int64(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))), asm.Half),
		asm.Mov.Imm(asm.R2, offsetPort),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -8),
		asm.Mov.Imm(asm.R4, 2),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Imm32(asm.R0, next),
		asm.Return(),
	}})
	must(t, err)
	attached, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	must(t, errors.Join(err, program.Close()))
	return attached
}
