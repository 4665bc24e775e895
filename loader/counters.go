package loader

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
)

// Counter is how many packets and bytes met one verdict for one reason on one
// interface, summed over the CPUs.
type Counter struct {
	Ifindex uint32
	Verdict abi.Verdict
	Reason  abi.Reason
	Packets uint64
	Bytes   uint64
}

// Counters reads the counters from their pinned map, sorted by interface,
// verdict and reason. Without a pin there are none, and that is no error; an
// error is one of opening or reading the map.
func (d *Datapath) Counters() ([]Counter, error) {
	m, err := d.openMap(abi.DatapathMapCounters)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()

	var key abi.DatapathCounterKey
	var perCPU []abi.DatapathCounter
	var counters []Counter
	entries := m.Iterate()
	for entries.Next(&key, &perCPU) {
		c := Counter{Ifindex: key.Ifindex, Verdict: key.Verdict, Reason: key.Reason}
		for _, v := range perCPU {
			c.Packets += v.Packets
			c.Bytes += v.Bytes
		}
		counters = append(counters, c)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	slices.SortFunc(counters, func(a, b Counter) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Reason, b.Reason))
	})
	return counters, nil
}
