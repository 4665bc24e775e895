package lists

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// minimal sorts the prefixes, all of them masked, and reduces them to the
// fewest that cover the same addresses, within the same array. Unlike
// config.MergePrefixes it joins halves: nobody deletes single entries of a list.
func minimal(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, config.ComparePrefixes)
	out := prefixes[:0] // never overtakes what is still to be read
	for _, p := range prefixes {
		// Whatever covers p stands before it, and the last one kept covers
		// all that lies between.
		if n := len(out); n > 0 && config.PrefixCovers(out[n-1], p) {
			continue
		}
		// A parent may be the second half of the one above it, and so on.
		for n := len(out); n > 0 && halves(out[n-1], p); n = len(out) {
			p = parent(p)
			out = out[:n-1]
		}
		out = append(out, p)
	}
	return out
}

// halves says whether lower and upper, which is behind it, make up one prefix.
func halves(lower, upper netip.Prefix) bool {
	return lower.Bits() == upper.Bits() && parent(lower).Contains(upper.Addr())
}

// parent is the prefix of which p is one half. Of length 0 there is none: the
// result is not valid then and contains nothing.
func parent(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
}
