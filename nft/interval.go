package nft

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// interval is one of a set that is not a concatenation: its first element, and the first
// behind it, which is missing where nothing is. The kernel has them as two elements, and
// wants those of an interval one behind the other, also to delete them (as of Linux 6.18).
type interval []nftables.SetElement

// intervals puts together what belongs together. What nft begins a set with, an end of
// nothing, is left out.
func intervals(elements []nftables.SetElement) []interval {
	sorted := slices.Clone(elements)
	slices.SortFunc(sorted, func(x, y nftables.SetElement) int {
		c := bytes.Compare(x.Key, y.Key)
		switch {
		case c != 0 || x.IntervalEnd == y.IntervalEnd:
			return c
		case x.IntervalEnd: // of the interval before
			return -1
		}
		return 1
	})
	var out []interval
	for _, e := range sorted {
		bare := nftables.SetElement{Key: e.Key, IntervalEnd: e.IntervalEnd}
		switch {
		case !e.IntervalEnd:
			out = append(out, interval{bare})
		case len(out) > 0 && len(out[len(out)-1]) == 1:
			out[len(out)-1] = append(out[len(out)-1], bare)
		}
	}
	return out
}

// compareIntervals is compare for such sets: of an interval either all changes or nothing.
func compareIntervals(want, have []nftables.SetElement) changes {
	var change changes
	wanted, there := intervals(want), intervals(have)
	change.stale = lacking(there, wanted)
	change.missing = lacking(wanted, there)
	return change
}

// lacking returns the elements of those intervals that others have not.
func lacking(of, others []interval) []nftables.SetElement {
	known := make(map[string]bool)
	for _, i := range others {
		known[fmt.Sprint(i)] = true
	}
	var out []nftables.SetElement
	for _, i := range of {
		if !known[fmt.Sprint(i)] {
			out = append(out, i...)
		}
	}
	return out
}
