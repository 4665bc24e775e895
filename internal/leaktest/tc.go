package leaktest

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var clsact = []string{"--clsact"}

var (
	lanPinsGone = Fault{Name: "tcx programs of the LAN gone", part: "tc", Lacks: lacksTCX, Inflict: func(b *Bench) error {
		return remove(b.pins("links", "lan-[0-9]*"))
	}}
	filterGone = Fault{Name: "tc filter of the LAN gone", part: "tc", Args: clsact, Inflict: lines("tc filter del dev eth1 ingress")}
	qdiscGone  = Fault{Name: "tc qdisc del clsact (LAN)", part: "tc", Args: clsact, Inflict: lines("tc qdisc del dev eth1 clsact")}

	allPinsGone = Fault{Name: "all pins removed", Inflict: func(b *Bench) error { return remove(b.pins()) }}

	foreignAhead = Fault{Name: "foreign tcx program says OK ahead of the LAN's", part: "tc", Lacks: lacksTCX, Inflict: func(b *Bench) error {
		return b.putAhead(lan, ebpf.AttachTCXIngress)
	}}
	foreignAtWAN = Fault{Name: "foreign tcx program says OK ahead of the uplink's", Lacks: lacksTCX, Inflict: func(b *Bench) error {
		return b.putAhead(wan, ebpf.AttachTCXEgress)
	}}
)

func tcFaults() []Fault {
	uplinkPins := func(b *Bench) error { return remove(b.pins("links", "uplink-[0-9]*")) }
	return []Fault{
		lanPinsGone, filterGone, qdiscGone,
		{Name: "tcx program of the uplink gone", Lacks: lacksTCX, Inflict: uplinkPins},
		{Name: "tc qdisc del clsact (uplink)", Args: clsact, Inflict: lines("tc qdisc del dev eth0 clsact")},
		{Name: "tc qdisc del clsact (both)", Args: clsact, Inflict: lines("tc qdisc del dev eth0 clsact", "tc qdisc del dev eth1 clsact")},
		{Name: "tcx programs of LAN and uplink gone", Lacks: lacksTCX, Inflict: steps(lanPinsGone.Inflict, uplinkPins)},
		{Name: "guards of local delivery gone", Inflict: func(b *Bench) error {
			if err := remove(b.pins("links", "dns")); err != nil {
				return err
			}
			return remove(b.pins("links", "delivery*"))
		}},
		allPinsGone,
		{Name: "bpffs unmounted", Inflict: func(*Bench) error {
			if err := unix.Unmount("/run/torbpf/bpf", unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount bpffs: %w", err)
			}
			return nil
		}},
		foreignAhead, foreignAtWAN,
		{Name: "foreign tcx programs say OK ahead of both", Lacks: lacksTCX, Inflict: steps(foreignAhead.Inflict, foreignAtWAN.Inflict)},
		{Name: "foreign tcx program says OK ahead of clsact", Args: clsact, Lacks: lacksTCX, Inflict: foreignAhead.Inflict},
		{Name: "clsact qdisc of somebody else comes and goes", Inflict: lines(
			"tc qdisc add dev eth1 clsact", "tc qdisc add dev eth0 clsact", "tc qdisc del dev eth1 clsact", "tc qdisc del dev eth0 clsact")},
	}
}

// lacksTCX tries it, on a device that nothing of torbpf's is at.
func lacksTCX(b *Bench) string {
	ahead, err := b.firstAt("lo", ebpf.AttachTCXIngress)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return "this kernel is older than tcx (Linux 6.6)"
	}
	if err == nil {
		err = ahead.Close()
	}
	if err != nil {
		return fmt.Sprintf("tcx could not be tried: %v", err)
	}
	return ""
}

// putAhead attaches a program of somebody else's before all others, which lets
// every packet pass without asking those. It goes before the repair: to be ahead
// of it once more is not torbpf's part.
func (b *Bench) putAhead(name string, hook ebpf.AttachType) error {
	ahead, err := b.firstAt(name, hook)
	if err != nil {
		return err
	}
	b.undo(ahead.Close)
	return nil
}

// firstAt attaches a program that lets every packet pass.
func (b *Bench) firstAt(name string, hook ebpf.AttachType) (ahead link.Link, err error) {
	const ok = 0 // TC_ACT_OK
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, ok), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load foreign program: %w", err)
	}
	defer program.Close()
	index, err := b.index(name)
	if err != nil {
		return nil, err
	}
	err = b.Lab.Router.Do(func() (err error) {
		ahead, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: hook, Anchor: link.Head()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach foreign program: %w", err)
	}
	return ahead, nil
}
