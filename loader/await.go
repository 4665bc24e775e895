package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// awaitPackets returns when every packet on its way through the kernel's hooks
// at the time of the call has left them. Writing to a map of maps waits for
// just that, so that user space knows when nothing uses the old value any more
// (Linux commit 1ae80cf31938).
func awaitPackets() error {
	spec := &ebpf.MapSpec{Name: "torbpf_inner", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("wait for packets on their way: %w", err)
	}
	defer inner.Close()
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "torbpf_outer", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: spec,
	})
	if err != nil {
		return fmt.Errorf("wait for packets on their way: %w", err)
	}
	defer outer.Close()
	if err := outer.Put(uint32(0), inner); err != nil {
		return fmt.Errorf("wait for packets on their way: %w", err)
	}
	return nil
}
