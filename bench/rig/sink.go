package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/testnet"
)

// sink is an XDP program that counts and drops what a generator has sent.
type sink struct {
	counts  *ebpf.Map
	program *ebpf.Program
	link    link.Link
}

// arrived is what a sink has counted.
type arrived struct {
	Right uint64 // with the address that it is to have
	Wrong uint64
}

// newSink attaches a sink to an interface of a node. What it takes is from Direct or Refused
// if it is answers, and to them if not; its other address should be one.
func newSink(n *testnet.Node, ifname string, other netip.Addr, answers bool) (*sink, error) {
	counts, err := newCounters("bench_arrived", 2)
	if err != nil {
		return nil, fmt.Errorf("make sink: %w", err)
	}
	s := &sink{counts: counts}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_sink", Type: ebpf.XDP, License: "MIT", Instructions: sinkInstructions(other, answers, counts.FD()),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load sink: %w", err), s.close())
	}
	err = n.Do(func() error {
		dev, err := n.Netlink().LinkByName(ifname)
		if err != nil {
			return err
		}
		s.link, err = link.AttachXDP(link.XDPOptions{Program: s.program, Interface: dev.Attrs().Index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach sink to %s of %s: %w", ifname, n.Name, err), s.close())
	}
	return s, nil
}

func (s *sink) close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.program != nil {
		errs = append(errs, s.program.Close())
	}
	return errors.Join(append(errs, s.counts.Close())...)
}

// count is what has arrived since the sink was attached.
func (s *sink) count() (a arrived, err error) {
	if err := s.counts.Lookup(uint32(0), &a); err != nil {
		return a, fmt.Errorf("read what arrived: %w", err)
	}
	return a, nil
}

// settled is count once nothing arrives any more: the last frames may be under way.
func (s *sink) settled() (arrived, error) {
	last, err := s.count()
	for err == nil {
		time.Sleep(time.Millisecond)
		var now arrived
		if now, err = s.count(); now == last {
			return now, err
		}
		last = now
	}
	return last, err
}

// sinkInstructions pass what is not for the sink. Direct and Refused are one /15.
func sinkInstructions(other netip.Addr, answers bool, counts int) asm.Instructions {
	const xdpDrop, xdpPass = 1, 2
	far, near := int16(offsetDest), int16(offsetSource)
	if answers {
		far, near = near, far
	}
	native := func(a netip.Addr) int32 {
		b := a.As4()
		return int32(binary.NativeEndian.Uint32(b[:]))
	}
	return asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R7, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R6),
		asm.Add.Imm(asm.R2, offsetPorts),
		asm.JGT.Reg(asm.R2, asm.R7, "pass"),
		asm.LoadMem(asm.R2, asm.R6, offsetProtocol, asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.JNE.Imm(asm.R2, 0x0800, "pass"),
		asm.LoadMem(asm.R2, asm.R6, far, asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.And.Imm(asm.R2, 0xfffe),
		asm.JNE.Imm(asm.R2, 51<<8|20, "pass"),
		asm.LoadMapValue(asm.R1, counts, 0),
		asm.LoadMem(asm.R2, asm.R6, near, asm.Word),
		asm.JEq.Imm32(asm.R2, native(other), "count"),
		asm.Add.Imm(asm.R1, 8),
		asm.Mov.Imm(asm.R2, 1).WithSymbol("count"),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R0, xdpDrop),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	}
}
