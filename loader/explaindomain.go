package loader

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// Asked finds the rule for a name that a device asks for, as excluded_name() of bpf/dns.h.
func (e *Explainer) Asked(name string) (m Match, ok bool, err error) {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	for i := len(labels) - 1; i >= 0; i-- {
		suffix := strings.Join(labels[i:], ".")
		if i > 0 {
			suffix = "*." + suffix
		}
		if m, ok, err = e.entry(abi.DatapathMapDomains, abi.DomainKey(suffix)); ok || err != nil {
			return m, ok, err
		}
	}
	return Match{}, false, nil
}

// Domain finds the name by which a flow of a device is direct, as direct_domain() of
// bpf/domain.h: the one that it has begun by, or else the one that the device was told
// the address for.
func (e *Explainer) Domain(mac config.MAC, flow plan.Flow) (m Match, ok bool, err error) {
	now, err := kernel.BootTime()
	if err != nil {
		return Match{}, false, err
	}
	for _, find := range []func(config.MAC, plan.Flow, time.Duration) (uint64, bool, error){e.begunDomain, e.answeredDomain} {
		key, known, err := find(mac, flow, now)
		if err != nil {
			return Match{}, false, err
		}
		if !known {
			continue
		}
		if m, ok, err = e.entry(abi.DatapathMapDomains, key); err != nil || ok && m.Policy == abi.PolicyDirect {
			return m, ok, err
		}
	}
	return Match{}, false, nil
}

func (e *Explainer) begunDomain(mac config.MAC, flow plan.Flow, now time.Duration) (uint64, bool, error) {
	rest := abi.DomainUDPRest
	if flow.Protocol == unix.IPPROTO_TCP {
		rest = abi.DomainTCPRest
	}
	begun, ok, err := lookup[abi.DatapathDomainFlow](e, abi.DatapathMapDomainFlows, flowKey(flow.Src, flow.Dst, flow.Protocol))
	return begun.Domain, ok && time.Duration(begun.SeenNs)+rest >= now && begun.Mac.Addr == mac, err
}

func (e *Explainer) answeredDomain(mac config.MAC, flow plan.Flow, now time.Duration) (uint64, bool, error) {
	device := abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: mac}}
	if mac == (config.MAC{}) {
		device.Addr = flow.Src.Addr().As16()
	}
	addr := flow.Dst.Addr().As16()
	place := abi.DomainPlace(device, addr)
	for i := range abi.DomainProbes {
		slot, _, err := lookup[abi.DatapathDomainSlot](e, abi.DatapathMapDomainSlots, (place+i)%abi.DomainSlots)
		if err != nil {
			return 0, false, err
		}
		if time.Duration(slot.UntilNs) > now && slot.Device == device && slot.Addr == addr {
			return slot.Domain, true, nil
		}
	}
	return 0, false, nil
}
