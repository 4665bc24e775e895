package loader

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// TestTrafficReadAtOnceIsThatOfAllSlots: not one is left out, and what CPUs have counted of a
// device in different slots is added up exactly.
func TestTrafficReadAtOnceIsThatOfAllSlots(t *testing.T) {
	spec, err := abi.LoadDatapath()
	must(t, err)
	m, err := ebpf.NewMap(spec.Maps[abi.DatapathMapDeviceTraffic])
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	cpus, err := ebpf.PossibleCPU()
	must(t, err)
	want := make(map[config.MAC]uint64)
	for _, slot := range []uint32{0, 1, 7, m.MaxEntries() - 2, m.MaxEntries() - 1} {
		perCPU := make([]abi.DatapathDeviceTraffic, cpus)
		for cpu := range perCPU {
			mac := config.MAC{2, 0, 0x5e, 0, 0, byte(1 + (int(slot)+cpu)%3)}
			amount := uint64(slot)<<32 + uint64(cpu) + 1
			perCPU[cpu].Device.Mac.Addr = mac
			perCPU[cpu].ByFate[abi.FateDirect] = abi.DatapathCounter{Packets: amount, Bytes: 3 * amount}
			want[mac] += amount
		}
		must(t, m.Put(slot, perCPU))
	}
	atOnce, err := trafficSlots(m)
	must(t, err)
	bySlot, err := trafficBySlot(m)
	must(t, err)
	if len(atOnce) != int(m.MaxEntries())*cpus || !slices.Equal(atOnce, bySlot) {
		t.Fatalf("%d slots at once and %d by slot, or others", len(atOnce), len(bySlot))
	}
	found := byDevice(atOnce)
	for _, d := range found {
		if got := d.ByFate[abi.FateDirect]; got.Packets != want[d.MAC] || got.Bytes != 3*want[d.MAC] {
			t.Errorf("%v: %v, want %d packets", d.MAC, got, want[d.MAC])
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d devices, want %d", len(found), len(want))
	}
}
