package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/lists"
	"github.com/torbpf/torbpf/testnet"
)

// destinations is how many addresses packets go to in turn: so many that what one packet
// has found of a list has left the nearest caches before it is asked for again.
const destinations = 1 << 18

// BenchmarkListPacket runs the LAN program over packets of which each goes to another
// address, any or of a list, for lists of one family. The times are those of the program alone,
// without what it takes to write the address into the packet. All lists take turns, so that
// what else the machine does falls on all of them; only the ratios mean anything.
func BenchmarkListPacket(b *testing.B) {
	for _, f := range []family{ipv4, ipv6} {
		b.Run(f.name, func(b *testing.B) {
			var runs []*rounds
			anywhere := f.addrs(b, f.any)
			for _, n := range append([]int{0, 16}, sizes...) {
				runs = append(runs, f.prepare(b, n, anywhere)...)
			}
			for b.Loop() {
				for _, r := range runs {
					r.run()
				}
			}
			for _, r := range runs {
				b.ReportMetric(r.each(), "ns/"+r.name)
			}
			b.ReportMetric(0, "ns/op") // of them all: says nothing
		})
	}
}

// family is what differs between IPv4 and IPv6.
type family struct {
	name      string
	prefix    func() netip.Prefix // of a list
	any       func() netip.Addr
	router    netip.Addr
	etherType uint16
	offset    int16 // of the destination in a frame
}

var ipv4 = family{name: "ipv4", prefix: hostPrefix4, any: public4, router: testnet.LANRouter4, etherType: unix.ETH_P_IP, offset: 14 + 16}
var ipv6 = family{name: "ipv6", prefix: hostPrefix6, any: public6, router: testnet.LANRouterULA, etherType: unix.ETH_P_IPV6, offset: 14 + 24}

// hostPrefix4 is of the lengths that leave most of a million entries when they are merged.
func hostPrefix4() netip.Prefix { return netip.PrefixFrom(public4(), 24+rand.IntN(9)).Masked() }

func hostPrefix6() netip.Prefix { return netip.PrefixFrom(public6(), 32+rand.IntN(33)).Masked() }

// public4 is any address to which TCP would be Tor's, but for the few that are reserved.
func public4() netip.Addr {
	for {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], rand.Uint32())
		if addr := netip.AddrFrom4(a); addr.IsGlobalUnicast() && !addr.IsPrivate() && a[0] != 0 && a[0] != 100 && a[0] < 224 {
			return addr
		}
	}
}

// public6 is any address of 2000::/3.
func public6() netip.Addr {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], rand.Uint64()>>3|1<<61)
	binary.BigEndian.PutUint64(a[8:], rand.Uint64())
	return netip.AddrFrom16(a)
}

// prepare makes ready what times packets where a list has n entries before it is merged; 0:
// there is none.
func (f family) prepare(b *testing.B, n int, anywhere *ebpf.Map) []*rounds {
	if n == 0 {
		return []*rounds{f.newRounds(b, "0-any", lanProgram(b, nil), anywhere)}
	}
	list := f.list(b, n)
	maps := fillLists(b, list)
	defer maps.Close()
	program := lanProgram(b, maps)
	listed := f.addrs(b, func() netip.Addr { return list.Prefixes[rand.IntN(len(list.Prefixes))].Addr() })
	return []*rounds{
		f.newRounds(b, fmt.Sprintf("%d-any", n), program, anywhere), f.newRounds(b, fmt.Sprintf("%d-listed", n), program, listed),
	}
}

func (f family) list(b *testing.B, n int) *lists.List {
	b.Helper()
	list, err := lists.Read(writePrefixes(b, n, f.prefix))
	if err != nil {
		b.Fatal(err)
	}
	return list
}

// addrs is a map of as many addresses as there are destinations.
func (f family) addrs(b *testing.B, goal func() netip.Addr) *ebpf.Map {
	b.Helper()
	addrs := newMap(b, &ebpf.MapSpec{Name: "addrs", Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: destinations})
	keys, values := make([]uint32, destinations), make([][16]byte, destinations)
	for i := range values {
		keys[i] = uint32(i)
		copy(values[i][:], goal().AsSlice())
	}
	if _, err := addrs.BatchUpdate(keys, values, nil); err != nil {
		b.Fatal(err)
	}
	return addrs
}

// rounds times runs of a program over all destinations by parts, of each of which the best
// counts: one that another process has interrupted does not.
type rounds struct {
	b           *testing.B
	name        string
	with, alone *ebpf.Program // what sends to the program, and what to none
	frame       []byte
	best        [2][destinations / roundPart]int64 // nanoseconds of both
}

const roundPart = 1 << 11

func (f family) newRounds(b *testing.B, name string, program *ebpf.Program, addrs *ebpf.Map) *rounds {
	b.Helper()
	r := &rounds{b: b, name: name, with: f.sender(b, program, addrs), alone: f.sender(b, nil, addrs)}
	r.frame = testnet.Frame(net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, f.etherType,
		testnet.TCPSegment(netip.AddrPortFrom(f.router.Next(), 40000), netip.AddrPortFrom(f.router, 443), testnet.FlagACK, 1, 1, nil))
	return r
}

// sender loads a program that sends to the destinations in turn.
func (f family) sender(b *testing.B, program *ebpf.Program, addrs *ebpf.Map) *ebpf.Program {
	b.Helper()
	target := newMap(b, &ebpf.MapSpec{Name: "target", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	turn := newMap(b, &ebpf.MapSpec{Name: "turn", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	sender, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "sender", Type: ebpf.SchedCLS, License: "GPL", Instructions: f.sendInTurn(turn, addrs, target)})
	if err != nil {
		b.Fatalf("load: %+v", err)
	}
	b.Cleanup(func() { sender.Close() })
	if program != nil {
		if err := target.Put(uint32(0), program); err != nil {
			b.Fatal(err)
		}
	}
	return sender
}

// run goes through all destinations twice: the first time brings into the farthest cache what
// fits there.
func (r *rounds) run() {
	r.b.Helper()
	for range 2 {
		for i := range r.best[0] {
			r.part(r.with, &r.best[0][i])
		}
	}
	for i := range r.best[1] {
		r.part(r.alone, &r.best[1][i])
	}
}

func (r *rounds) part(program *ebpf.Program, best *int64) {
	r.b.Helper()
	_, each, err := program.Benchmark(r.frame, roundPart, nil)
	if err != nil {
		r.b.Fatal(err)
	}
	if now := each.Nanoseconds(); *best == 0 || now < *best {
		*best = now
	}
}

// each is the nanoseconds that the program takes for a packet.
func (r *rounds) each() float64 {
	sum := int64(0)
	for i := range r.best[0] {
		sum += r.best[0][i] - r.best[1][i]
	}
	return float64(sum) / float64(len(r.best[0]))
}

func newMap(b *testing.B, spec *ebpf.MapSpec) *ebpf.Map {
	b.Helper()
	m, err := ebpf.NewMap(spec)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.Close() })
	return m
}

// sendInTurn is a program that writes the next address into the packet and hands it to the
// target.
func (f family) sendInTurn(turn, addrs, target *ebpf.Map) asm.Instructions {
	const data, dataEnd = 76, 80 // in struct __sk_buff
	prog := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, turn.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.Add.Imm(asm.R1, 1), asm.And.Imm(asm.R1, destinations-1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, addrs.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R2, asm.R6, data, asm.Word), asm.LoadMem(asm.R3, asm.R6, dataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R2), asm.Add.Imm(asm.R1, int32(f.offset)+16),
		asm.JGT.Reg(asm.R1, asm.R3, "out"),
	}
	for i := int16(0); i < int16(f.router.BitLen()/8); i += 4 {
		prog = append(prog, asm.LoadMem(asm.R1, asm.R0, i, asm.Word), asm.StoreMem(asm.R2, f.offset+i, asm.R1, asm.Word))
	}
	return append(prog,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, target.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	)
}
