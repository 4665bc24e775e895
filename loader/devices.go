package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

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
	var slots [][]abi.DatapathDeviceTraffic
	for slot := range m.MaxEntries() {
		var perCPU []abi.DatapathDeviceTraffic
		if err := m.Lookup(slot, &perCPU); err != nil {
			return nil, fmt.Errorf("read the traffic of devices: %w", err)
		}
		slots = append(slots, perCPU)
	}
	return byDevice(slots), nil
}

// byDevice adds up what the CPUs have counted; on each, another device may have a slot.
func byDevice(slots [][]abi.DatapathDeviceTraffic) []DeviceTraffic {
	var out []DeviceTraffic
	place := make(map[abi.DatapathDeviceKey]int)
	for _, perCPU := range slots {
		for _, t := range perCPU {
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
func (d *DeviceTraffic) add(t abi.DatapathDeviceTraffic) {
	d.Seen = max(d.Seen, time.Duration(t.SeenNs))
	for fate, c := range t.ByFate {
		sum := d.ByFate[abi.Fate(fate)]
		d.ByFate[abi.Fate(fate)] = Traffic{sum.Packets + c.Packets, sum.Bytes + c.Bytes}
	}
}
