package model

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// skBuff is struct __sk_buff as far as a test run of a program takes it.
type skBuff struct {
	_              [2]uint32
	Mark           uint32
	_              [6]uint32
	IngressIfindex uint32 // 0: sent by the router itself
	Ifindex        uint32
	_              [30]uint32
	GSOSegs        uint32
	_              [2]uint32
	GSOSize        uint32
	_              [3]uint32
}

// outcome is what one run of a program did.
type outcome struct {
	action uint32
	mark   uint32
	frame  []byte // as the program left it
	moved  map[counted]abi.DatapathCounter
}

// errShort is what the kernel says of a frame that is shorter than the headers
// its EtherType promises, before any program has seen it.
var errShort = errors.New("the kernel runs no program on such a frame")

// run runs a program once. It does not look at the counters.
func (o *objects) run(program string, frame []byte, in skBuff) (outcome, error) {
	var out skBuff
	opts := ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+256), Context: in, ContextOut: &out,
	}
	action, err := o.progs[program].Run(&opts)
	if errors.Is(err, unix.EINVAL) && len(frame) < 14+40 {
		return outcome{}, errShort
	}
	if err != nil {
		return outcome{}, err
	}
	return outcome{action: action, mark: out.Mark, frame: opts.DataOut}, nil
}

// watch runs a program once and finds the counters that it moved.
func (o *objects) watch(t *testing.T, program string, frame []byte, in skBuff) outcome {
	t.Helper()
	before := o.tally()
	out, err := o.run(program, frame, in)
	if errors.Is(err, unix.EINVAL) && in.IngressIfindex != 0 && olderThan(t, 5, 16) {
		t.Skip("this kernel's test runs know no ingress interface (Linux 5.16)")
	}
	if err != nil {
		t.Fatalf("run %s on % x: %v", program, frame, err)
	}
	out.moved = make(map[counted]abi.DatapathCounter)
	for key, now := range o.tally() {
		then := before[key]
		if now != then {
			out.moved[key] = abi.DatapathCounter{Packets: now.Packets - then.Packets, Bytes: now.Bytes - then.Bytes}
		}
	}
	return out
}

// forget empties the allowances, so that every refusal may be answered again.
func (o *objects) forget() {
	clear[abi.DatapathAddress](o, "allowances")
	o.forgetHost()
}

// allow says until when a source has spent what it may be told, by the monotonic clock.
func (o *objects) allow(source netip.Addr, spentUntil uint64) {
	o.put("allowances", abi.DatapathAddress{Addr: source.As16()}, abi.DatapathAllowance{SpentUntilNs: spentUntil})
	o.forgetHost()
}

// forgetHost empties the slots that the host may have, in which programs note that it has
// just been found to have spent that: they ask once a jiffy.
func (o *objects) forgetHost() {
	for _, slot := range o.hostSlots() {
		o.put("device_traffic", slot, make([]abi.DatapathDeviceTraffic, ebpf.MustPossibleCPU()))
	}
}

// hostSlots are those of device_traffic that the host that sends may have.
func (o *objects) hostSlots() (slots []uint32) {
	const probes = 4 // DEVICE_PROBES
	place := abi.DevicePlace(abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: hostMAC}})
	for i := range uint32(probes) {
		slots = append(slots, (place+i)%o.maps["device_traffic"].MaxEntries())
	}
	return slots
}

// stackProtocol is the EtherType by which the kernel hands a frame of a test
// run on: what stands at byte 12, unless that is the length of an 802.3 frame.
func stackProtocol(frame []byte) uint16 {
	if len(frame) < 14 {
		return 0
	}
	if etherType := binary.BigEndian.Uint16(frame[12:]); etherType >= 0x600 {
		return etherType
	}
	return 0
}
