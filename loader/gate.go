package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
)

// Gates opens the pinned map through which the sentry opens and closes Tor to new
// connections. The caller closes it.
func (d *Datapath) Gates() (*ebpf.Map, error) { return d.openMap(abi.DatapathMapGates) }

// GateOpen tells whether the sentry lets new connections go to one Tor instance.
func (d *Datapath) GateOpen(instance uint32) (bool, error) {
	m, err := d.Gates()
	if err != nil {
		return false, err
	}
	defer m.Close()
	var gate abi.DatapathGate
	if err := m.Lookup(instance, &gate); err != nil {
		return false, fmt.Errorf("read gate %d: %w", instance, err)
	}
	return gate.Open != 0, nil
}
