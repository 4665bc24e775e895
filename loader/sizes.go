package loader

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
)

// MapSize is how full a pinned map is.
type MapSize struct {
	Name    string
	Type    string
	Max     uint32
	Entries int  // that were counted
	Counted bool // they can be, and all were
}

// countMost is where counting ends: the largest maps have a million entries.
const countMost = 100_000

// MapSizes lists the pinned maps by name.
func (d *Datapath) MapSizes() ([]MapSize, error) {
	entries, err := os.ReadDir(d.mapPin(""))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned maps: %w", err)
	}
	var out []MapSize
	for _, e := range entries {
		m, err := d.openMap(e.Name())
		if err != nil {
			return nil, err
		}
		size := MapSize{Name: e.Name(), Type: m.Type().String(), Max: m.MaxEntries()}
		size.Entries, size.Counted, err = count(m)
		m.Close()
		if err != nil {
			return nil, fmt.Errorf("count entries of map %s: %w", e.Name(), err)
		}
		out = append(out, size)
	}
	return out, nil
}

// count goes through the keys of a map that has others than all numbers. One that changes
// meanwhile may begin again with the first.
func count(m *ebpf.Map) (n int, all bool, err error) {
	switch m.Type() {
	case ebpf.Hash, ebpf.PerCPUHash, ebpf.LRUHash, ebpf.LRUCPUHash, ebpf.LPMTrie, ebpf.HashOfMaps:
	default:
		return 0, false, nil
	}
	first, err := m.NextKeyBytes(nil)
	for key := first; key != nil && err == nil; n++ {
		if n == countMost {
			return n, false, nil
		}
		key, err = m.NextKeyBytes(key)
		if n > 0 && bytes.Equal(key, first) {
			return n, false, nil
		}
	}
	return n, err == nil, err
}
