package loader

import (
	"fmt"

	"github.com/torbpf/torbpf/internal/abi"
)

// GateOpen tells whether the sentry lets new connections go to one Tor instance.
func (d *Datapath) GateOpen(instance uint32) (bool, error) {
	m, err := d.openMap(abi.DatapathMapGates)
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
