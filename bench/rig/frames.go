package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// Traffic is what a device sends, or with Back what it is answered.
type Traffic struct {
	Protocol uint8        // UDP or TCP
	To       netip.Prefix // of which firstHost and the next are the destinations
	Flows    uint32       // at most maxFlows
	Back     netip.Addr   // the router's or the device's address: answers to it from To; invalid for none
}

const (
	frameLength = 64
	firstPort   = 1024
	firstHost   = 128 // the last byte of the first destination
	hosts       = 64
	maxFlows    = 60_000
	port        = 5000
	sequence    = 1000 // of every segment, so that they do not become one, and are in the window
)

// Offsets in an Ethernet frame with IPv4 without options.
const (
	offsetProtocol = 12
	offsetIP       = 14
	offsetIPSum    = offsetIP + 10
	offsetSource   = offsetIP + 12
	offsetDest     = offsetIP + 16
	offsetPorts    = offsetIP + 20
	offsetUDPSum   = offsetPorts + 6
	offsetTCPSum   = offsetPorts + 16
)

// template is the frame of the first flow. A datagram has no checksum, so that nobody
// computes one: a network card would have verified it. A segment has to have one, which
// conntrack verifies.
func (t Traffic) template() []byte {
	first := t.To.Addr().As4()
	first[3] = firstHost
	from, to := netip.AddrPortFrom(device, firstPort), netip.AddrPortFrom(netip.AddrFrom4(first), port)
	src, dst := hardware(testnet.MACClient1), hardware(testnet.MACLAN)
	if t.Back.IsValid() {
		from, to = to, netip.AddrPortFrom(t.Back, firstPort)
		src, dst = hardware(testnet.MACISP), hardware(testnet.MACWAN)
	}
	var packet []byte
	if t.Protocol == unix.IPPROTO_TCP {
		packet = testnet.TCPSegment(from, to, testnet.FlagACK|testnet.FlagPSH, sequence, sequence, make([]byte, frameLength-offsetPorts-20))
	} else {
		packet = testnet.UDPDatagram(from, to, make([]byte, frameLength-offsetPorts-8))
	}
	frame := testnet.Frame(dst, src, unix.ETH_P_IP, packet)
	if t.Protocol == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(frame[offsetUDPSum:], 0)
	}
	return frame
}

// varying are the fields in which flows differ: the far end's address, as far as its last
// 16 bits go, and the device's port.
func (t Traffic) varying() (host, port int) {
	if t.Back.IsValid() {
		return offsetSource + 2, offsetPorts + 2
	}
	return offsetDest + 2, offsetPorts
}

// Generator is the XDP program that makes the frames of some traffic, and how many it has made.
type Generator struct {
	frame   []byte
	back    bool // it sends answers
	program *ebpf.Program
	made    *ebpf.Map
}

// NewGenerator loads the generator of some traffic.
func NewGenerator(t Traffic) (*Generator, error) {
	if t.Flows == 0 || t.Flows > maxFlows {
		return nil, fmt.Errorf("make generator: %d flows: 1 to %d are possible", t.Flows, maxFlows)
	}
	made, err := newCounters("bench_made", 1)
	if err != nil {
		return nil, fmt.Errorf("make generator: %w", err)
	}
	g := &Generator{frame: t.template(), back: t.Back.IsValid(), made: made}
	g.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_generator", Type: ebpf.XDP, License: "MIT", Instructions: t.instructions(g.frame, made.FD()),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load generator: %w", err), made.Close())
	}
	return g, nil
}

// Close frees what is in the kernel.
func (g *Generator) Close() error { return errors.Join(g.program.Close(), g.made.Close()) }

// instructions write the whole frame each time, as a frame that was used before has what
// became of it on its way, and then what is its flow's: the n-th has the n-th port, and
// one of 64 destinations. Checksums are those of the first flow with what is added to it.
//
//	r6: the frame, r9: n, r8: n % 64
func (t Traffic) instructions(frame []byte, made int) asm.Instructions {
	prog := asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 0, asm.Word), // xdp_md.data
		asm.LoadMem(asm.R7, asm.R1, 4, asm.Word), // xdp_md.data_end
		asm.Mov.Reg(asm.R2, asm.R6),
		asm.Add.Imm(asm.R2, frameLength),
		asm.JGT.Reg(asm.R2, asm.R7, "short"),
		asm.LoadMapValue(asm.R1, made, 0),
		asm.LoadMem(asm.R9, asm.R1, 0, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R9),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
		asm.Mod.Imm(asm.R9, int32(t.Flows)),
		asm.Mov.Reg(asm.R8, asm.R9),
		asm.And.Imm(asm.R8, hosts-1),
	}
	for offset := 0; offset < frameLength; offset += 4 {
		word := int32(binary.NativeEndian.Uint32(frame[offset:]))
		prog = append(prog, asm.StoreImm(asm.R6, int16(offset), int64(word), asm.Word))
	}
	host, port := t.varying()
	prog = append(prog, addTo(frame, host, asm.R8)...)
	prog = append(prog, addTo(frame, port, asm.R9)...)
	prog = append(prog, addToSum(frame, offsetIPSum, asm.R8)...)
	if t.Protocol == unix.IPPROTO_TCP {
		prog = append(prog, asm.Add.Reg(asm.R8, asm.R9))
		prog = append(prog, addToSum(frame, offsetTCPSum, asm.R8)...)
	}
	const xdpAborted, xdpTX = 0, 3
	return append(prog,
		asm.Mov.Imm(asm.R0, xdpTX),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpAborted).WithSymbol("short"),
		asm.Return())
}

// addTo writes a field of 16 bits with what is added to that of the first flow.
func addTo(frame []byte, offset int, what asm.Register) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, what),
		asm.Add.Imm(asm.R2, int32(binary.BigEndian.Uint16(frame[offset:]))),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.StoreMem(asm.R6, int16(offset), asm.R2, asm.Half),
	}
}

// addToSum does so with a checksum (RFC 1071).
func addToSum(frame []byte, offset int, what asm.Register) asm.Instructions {
	prog := asm.Instructions{
		asm.Mov.Reg(asm.R2, what),
		asm.Add.Imm(asm.R2, int32(^binary.BigEndian.Uint16(frame[offset:]))),
	}
	for range 2 { // carries
		prog = append(prog,
			asm.Mov.Reg(asm.R3, asm.R2),
			asm.RSh.Imm(asm.R3, 16),
			asm.And.Imm(asm.R2, 0xffff),
			asm.Add.Reg(asm.R2, asm.R3))
	}
	return append(prog,
		asm.Xor.Imm(asm.R2, 0xffff),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.StoreMem(asm.R6, int16(offset), asm.R2, asm.Half))
}

// send sends frames by an interface of the calling thread's namespace, and tells how long
// the kernel says that it was at it.
func (g *Generator) send(ifindex, frames int) (time.Duration, error) {
	took, err := runLive(g.program, g.frame, ifindex, frames)
	if err != nil {
		return 0, fmt.Errorf("send %d frames: %w", frames, err)
	}
	return took, nil
}

// count is how many frames were made so far.
func (g *Generator) count() (made uint64, err error) {
	if err := g.made.Lookup(uint32(0), &made); err != nil {
		return 0, fmt.Errorf("read what was sent: %w", err)
	}
	return made, nil
}

// newCounters makes a map of one entry that holds n counters.
func newCounters(name string, n uint32) (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: 8 * n, MaxEntries: 1})
}

func hardware(text string) net.HardwareAddr {
	address, err := net.ParseMAC(text)
	if err != nil {
		panic(err) // a constant of the lab
	}
	return address
}
