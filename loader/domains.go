package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// DomainSlots opens the pinned map through which the sentry says which addresses stand
// for excluded names. The caller closes it.
func (d *Datapath) DomainSlots() (*ebpf.Map, error) { return d.openMap(abi.DatapathMapDomainSlots) }

// Askers opens the pinned map in which the LAN programs tell the sentry which device asks
// for an excluded name. The caller closes it.
func (d *Datapath) Askers() (*ebpf.Map, error) { return d.openMap(abi.DatapathMapAskers) }

// DomainFlows returns the flows that have begun to an address of an excluded name, as
// the device sees them; those whose name is excluded no more are among them.
func (d *Datapath) DomainFlows() (map[plan.Flow]uint64, error) {
	m, err := d.openMap(abi.DatapathMapDomainFlows)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	out := make(map[plan.Flow]uint64)
	var key abi.DatapathFlow
	var value abi.DatapathDomainFlow
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		near := netip.AddrPortFrom(netip.AddrFrom16(key.NearAddr).Unmap(), swap(key.NearPortBe))
		peer := netip.AddrPortFrom(netip.AddrFrom16(key.PeerAddr).Unmap(), swap(key.PeerPortBe))
		out[plan.Flow{Protocol: uint8(key.Protocol), Src: near, Dst: peer}] = value.Domain
	}
	// An entry that is forgotten under the listing may end it early: such flows are cut.
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("list map %s: %w", abi.DatapathMapDomainFlows, err)
	}
	return out, nil
}
