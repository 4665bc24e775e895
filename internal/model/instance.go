package model

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// Instance is the tor that the sender of a packet uses.
func (p *Policy) Instance(k Packet) int {
	device := abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: k.MAC}}
	if k.MAC == (config.MAC{}) {
		device.Addr = k.Src.As16()
	}
	return abi.InstanceOf(device, p.Instances, p.ready)
}

// ready says whether one of the tors takes connections.
func (p *Policy) ready(instance int) bool {
	return p.GateOpen && !slices.Contains(p.Shut, instance)
}

// someTor says whether any does. Then there is one for each device.
func (p *Policy) someTor() bool {
	for i := range max(1, p.Instances) {
		if p.ready(i) {
			return true
		}
	}
	return false
}

// onionOf says which tor hands out a .onion address.
func (p *Policy) onionOf(a netip.Addr) int {
	for i := range p.Instances {
		for _, all := range []netip.Prefix{p.Onion4, p.Onion6} {
			if config.OnionPart(all, i, p.Instances).Contains(a) {
				return i
			}
		}
	}
	if p.Instances > 1 {
		return abi.MaxInstances // a part that no tor has
	}
	return 0
}
