package sentry

import (
	"time"

	"github.com/torbpf/torbpf/internal/abi"
)

// torAt is one of the tors as the server knows it.
type torAt struct {
	gate     *Gate
	upstream *upstream
}

// tors are all of them, by instance.
type tors []torAt

func newTors(cfg Config, gates []*Gate, attempt time.Duration) tors {
	var out tors
	for i, t := range cfg.Tors {
		out = append(out, torAt{gates[i], newUpstream(t.DNSPort, attempt)})
	}
	return out
}

// of returns the tor of who asks: the one that the LAN program sends all else of the device to,
// so that the .onion address it is told is one that it may go to. This machine itself has the
// first. Of whom the program has said nothing the address has to do, as it would without an
// Ethernet header.
func (t tors) of(from client) torAt {
	if from.addr.IsLoopback() {
		return t[0]
	}
	device := from.device
	if device == nobodysDevice {
		device.Addr = from.addr.WithZone("").As16()
	}
	return t[abi.InstanceOf(device, len(t), func(i int) bool { return t[i].gate.IsOpen() })]
}

// openGates maps the gates of a configuration's tors, and shuts those of tors that are no more.
// Those that it returns are to be closed, with an error too.
func openGates(cfg Config) (gates []*Gate, err error) {
	for i := range max(len(cfg.Tors), abi.MaxInstances) {
		gate, err := OpenGate(cfg.GateFD, uint32(i))
		if err != nil {
			return gates, err
		}
		if i < len(cfg.Tors) {
			gates = append(gates, gate)
			continue
		}
		gate.Set(false)
		if err := gate.Close(); err != nil {
			return gates, err
		}
	}
	return gates, nil
}
