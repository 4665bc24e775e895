package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

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

// forgetNames takes out of the shared maps what was written down of names that no rule in
// force excludes now. A rule that comes for such a name must not let out what devices were
// told, and began, under an earlier one. The sentry may be writing meanwhile: at worst an
// answer of a moment ago is lost, and its site is reached through Tor.
func (d *Datapath) forgetNames(shared map[string]*ebpf.Map) error {
	excluded, err := d.namesInForce()
	if err != nil {
		return err
	}
	if slots := shared[abi.DatapathMapDomainSlots]; slots != nil {
		if err := forgetAnswers(slots, excluded); err != nil {
			return fmt.Errorf("forget what devices were told of names: %w", err)
		}
	}
	if flows := shared[abi.DatapathMapDomainFlows]; flows != nil {
		if err := forgetNamedFlows(flows, excluded); err != nil {
			return fmt.Errorf("forget what has begun by a name: %w", err)
		}
	}
	return nil
}

// namesInForce are the keys of the names that the programs in force let out.
func (d *Datapath) namesInForce() (map[uint64]bool, error) {
	m, err := d.openMap(abi.DatapathMapDomains)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	out := make(map[uint64]bool)
	var key uint64
	var rule abi.DatapathRule
	entries := m.Iterate()
	for entries.Next(&key, &rule) {
		if _, out[key], err = match(rule, abi.DatapathMapDomains, key); err != nil {
			return nil, err
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list map %s: %w", abi.DatapathMapDomains, err)
	}
	return out, nil
}

// forgetAnswers ends the time of slots where they are, as the sentry does: an update of the
// whole entry could mix with what it writes.
func forgetAnswers(m *ebpf.Map, excluded map[uint64]bool) error {
	memory, err := m.Memory()
	if err != nil {
		return err
	}
	slots := make([]abi.DatapathDomainSlot, abi.DomainSlots)
	text := make([]byte, binary.Size(slots))
	if _, err := memory.ReadAt(text, 0); err != nil {
		return err
	}
	if _, err := binary.Decode(text, binary.NativeEndian, slots); err != nil {
		return err
	}
	over := make([]byte, unsafe.Sizeof(slots[0].UntilNs))
	for i, slot := range slots {
		if slot.UntilNs == 0 || excluded[slot.Domain] {
			continue
		}
		at := i*int(m.ValueSize()) + int(unsafe.Offsetof(slot.UntilNs))
		if _, err := memory.WriteAt(over, int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// forgetNamedFlows lists again what others have changed under the listing.
func forgetNamedFlows(m *ebpf.Map, excluded map[uint64]bool) error {
	var err error
	for range listings {
		var gone []abi.DatapathFlow
		var key abi.DatapathFlow
		var value abi.DatapathDomainFlow
		entries := m.Iterate()
		for entries.Next(&key, &value) {
			if !excluded[value.Domain] {
				gone = append(gone, key)
			}
		}
		for _, key := range gone {
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
		if err = entries.Err(); !errors.Is(err, ebpf.ErrIterationAborted) {
			return err
		}
	}
	return err
}

// listings are how often a map is listed that changes meanwhile.
const listings = 10
