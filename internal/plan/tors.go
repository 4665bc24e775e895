package plan

import (
	"net/netip"

	"github.com/torbpf/torbpf/internal/config"
)

// Tor is one of the tors: where its devices' packets go, and the .onion addresses that it
// hands out, which are no other's.
type Tor struct {
	Trans, DNS     uint16
	Onion4, Onion6 netip.Prefix
}

// Tors are all of them, in the order of their numbers. The first carries what this machine
// itself sends.
func (p *Plan) Tors() []Tor {
	n := max(1, p.Instances)
	out := make([]Tor, n)
	for i := range out {
		out[i] = Tor{
			Trans:  config.PortOf(p.Ports.Trans, i),
			DNS:    config.PortOf(p.Ports.DNS, i),
			Onion4: config.OnionPart(p.Onion4, i, n),
			Onion6: config.OnionPart(p.Onion6, i, n),
		}
	}
	return out
}

// IsPort tells whether tor or the sentry listens on a port, by whichever protocol.
func (p *Plan) IsPort(port uint16) bool {
	if port == p.Ports.Resolver {
		return true
	}
	for _, t := range p.Tors() {
		if port == t.Trans || port == t.DNS {
			return true
		}
	}
	return false
}

// InstanceMask covers the nibble of the instance.
func (m Mark) InstanceMask() uint32 { return 0xf0 << m.Shift }

// Instance returns an instance in place, to compare under InstanceMask.
func (m Mark) Instance(instance int) uint32 { return uint32(instance) << (m.Shift + 4) }

// InstanceOf reads the instance out of a mark.
func (m Mark) InstanceOf(mark uint32) int { return int((mark & m.InstanceMask()) >> (m.Shift + 4)) }
