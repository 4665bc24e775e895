package model

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/torbpf/torbpf/internal/abi"
)

// vlanTag is that of the VLAN device which the tests put in front of torbpf_lan.
const vlanTag = 0x8100_0064

// putTagBack loads a program that does what a VLAN device with reorder_hdr off does
// before it hands a frame on: the tag goes back into the data, and the EtherType by
// which the stack knows the packet stays that of what is within. Then it calls
// torbpf_lan. A tag within, of which there may be one, has been put into the metadata
// by then. A kernel need not have VLAN devices for that.
func (o *objects) putTagBack(name string, within ...int32) {
	o.tb.Helper()
	next, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		o.tb.Fatal(err)
	}
	o.tb.Cleanup(func() { next.Close() })
	if err := next.Put(uint32(0), o.progs["torbpf_lan"]); err != nil {
		o.tb.Fatal(err)
	}
	header := binary.BigEndian.AppendUint32(slices.Concat(routerMAC[:], hostMAC[:]), vlanTag)
	const fail = 99
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for _, id := range within {
		code = append(code,
			asm.Mov.Imm(asm.R2, int32(bePort(0x8100))), asm.Mov.Imm(asm.R3, id),
			asm.FnSkbVlanPush.Call(),
			asm.JNE.Imm(asm.R0, 0, "fail"),
			asm.Mov.Reg(asm.R1, asm.R6))
	}
	code = append(code,
		asm.Mov.Imm(asm.R2, 4), asm.Mov.Imm(asm.R3, 0),
		asm.FnSkbChangeHead.Call(),
		asm.JNE.Imm(asm.R0, 0, "fail"))
	for at := 0; at < len(header); at += 8 {
		word := int64(binary.NativeEndian.Uint64(header[at:]))
		code = append(code, asm.LoadImm(asm.R1, word, asm.DWord), asm.StoreMem(asm.RFP, int16(at-len(header)), asm.R1, asm.DWord))
	}
	code = append(code,
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, int32(-len(header))),
		asm.Mov.Imm(asm.R4, int32(len(header))), asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "fail"),
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, next.FD()), asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, fail).WithSymbol("fail"),
		asm.Return(),
	)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: code, License: "MIT"})
	if err != nil {
		o.tb.Fatalf("load the program that puts a tag back: %+v", err)
	}
	o.tb.Cleanup(func() { program.Close() })
	o.progs[name] = program
}

// TestTagsLeftInTheData: what a VLAN device hands on with its tag in place is its own
// all the same.
func TestTagsLeftInTheData(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	o.putTagBack("untagged")
	o.putTagBack("priority", 0)
	o.putTagBack("another", 200)
	query := ip(laptop4, excluded4, udp(40000, 53, dnsQuery()...))
	for _, c := range []struct {
		name   string
		within string
		packet []byte
		want   abi.Reason
	}{
		{"DNS", "untagged", query, abi.ReasonDNSUDP},
		{"refused", "untagged", ip(laptop6, web6, udp(40000, 27015)), abi.ReasonUDP},
		{"DNS behind a priority tag", "priority", query, abi.ReasonDNSUDP},
		{"a VLAN within", "another", query, abi.ReasonOtherVLAN},
	} {
		frame := ether(c.packet)
		out := o.watch(t, c.within, frame, skBuff{Ifindex: lanIndex})
		if n := out.moved[counted{lanIndex, c.want.Verdict(), c.want}].Packets; n != 1 || len(out.moved) != 1 {
			t.Errorf("%s: counted %v, want one packet as %s", c.name, out.moved, c.want)
		}
		metadata := map[string]Metadata{"untagged": {}, "priority": {Tagged: true}, "another": {Tagged: true, VLAN: 200}}[c.within]
		metadata.Protocol = stackProtocol(frame)
		if _, got := home().Judge(Parse(ether(c.packet, vlanTag), true, metadata)); got != c.want {
			t.Errorf("%s: the model says %s, want %s", c.name, got, c.want)
		}
	}
}
