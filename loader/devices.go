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
	var key abi.DatapathDeviceKey
	var perCPU []abi.DatapathDeviceTraffic
	var out []DeviceTraffic
	entries := m.Iterate()
	for entries.Next(&key, &perCPU) {
		out = append(out, deviceTraffic(key, perCPU))
	}
	// An entry that is forgotten under the listing may end it early; the next has the rest.
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("read the traffic of devices: %w", err)
	}
	return out, nil
}

func deviceTraffic(key abi.DatapathDeviceKey, perCPU []abi.DatapathDeviceTraffic) DeviceTraffic {
	out := DeviceTraffic{MAC: key.Mac.Addr, ByFate: make(map[abi.Fate]Traffic)}
	if out.MAC == (config.MAC{}) {
		out.Addr = netip.AddrFrom16(key.Addr).Unmap()
	}
	for _, cpu := range perCPU {
		out.Seen = max(out.Seen, time.Duration(cpu.SeenNs))
		for fate, c := range cpu.ByFate {
			sum := out.ByFate[abi.Fate(fate)]
			out.ByFate[abi.Fate(fate)] = Traffic{sum.Packets + c.Packets, sum.Bytes + c.Bytes}
		}
	}
	return out
}
