package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// DeviceTraffic is what one device has sent, by what became of it.
type DeviceTraffic struct {
	MAC    config.MAC // zero where frames have no hardware addresses
	Addr   netip.Addr // invalid where they have
	ByFate map[abi.Fate]Traffic
	Seen   time.Duration // when the last packet came, since boot (CLOCK_BOOTTIME)
}

// Traffic is an amount of it.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// DeviceTraffic reads what devices have sent since the LANs were attached; the devices
// that have been silent longest may have been forgotten. Without a pin there is none.
func (d *Datapath) DeviceTraffic() ([]DeviceTraffic, error) {
	m, err := d.openMap(abi.DatapathMapDeviceTraffic)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	slots, err := trafficSlots(m)
	if err != nil {
		return nil, fmt.Errorf("read the traffic of devices: %w", err)
	}
	return byDevice(slots), nil
}

// trafficSlots reads the map at once, which takes a fifth of the time that it takes slot by
// slot, as kernels before 5.13 want it.
func trafficSlots(m *ebpf.Map) ([]abi.DatapathDeviceTraffic, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	slots := make([]abi.DatapathDeviceTraffic, int(m.MaxEntries())*cpus)
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, make([]uint32, m.MaxEntries()), slots, nil)
	if n == int(m.MaxEntries()) && (err == nil || errors.Is(err, ebpf.ErrKeyNotExist)) { // that was the last
		return slots, nil
	}
	return trafficBySlot(m)
}

// trafficBySlot is trafficSlots for older kernels.
func trafficBySlot(m *ebpf.Map) ([]abi.DatapathDeviceTraffic, error) {
	var slots []abi.DatapathDeviceTraffic
	for slot := range m.MaxEntries() {
		var perCPU []abi.DatapathDeviceTraffic
		if err := m.Lookup(slot, &perCPU); err != nil {
			return nil, err
		}
		slots = append(slots, perCPU...)
	}
	return slots, nil
}

// byDevice adds up what the CPUs have counted; on each, another device may have a slot.
func byDevice(slots []abi.DatapathDeviceTraffic) []DeviceTraffic {
	var out []DeviceTraffic
	place := make(map[abi.DatapathDeviceKey]int)
	for i := range slots {
		t := &slots[i]
		if t.Device == (abi.DatapathDeviceKey{}) {
			continue
		}
		i, known := place[t.Device]
		if !known {
			i, place[t.Device] = len(out), len(out)
			out = append(out, deviceTraffic(t.Device))
		}
		out[i].add(t)
	}
	return out
}

// deviceTraffic is that of a device that has sent nothing yet.
func deviceTraffic(key abi.DatapathDeviceKey) DeviceTraffic {
	out := DeviceTraffic{MAC: key.Mac.Addr, ByFate: make(map[abi.Fate]Traffic)}
	if out.MAC == (config.MAC{}) {
		out.Addr = netip.AddrFrom16(key.Addr).Unmap()
	}
	return out
}

// add counts what one CPU has seen of a device.
func (d *DeviceTraffic) add(t *abi.DatapathDeviceTraffic) {
	d.Seen = max(d.Seen, time.Duration(t.SeenNs))
	for fate, c := range t.ByFate {
		sum := d.ByFate[abi.Fate(fate)]
		d.ByFate[abi.Fate(fate)] = Traffic{sum.Packets + c.Packets, sum.Bytes + c.Bytes}
	}
}
