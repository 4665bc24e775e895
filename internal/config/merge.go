package config

import (
	"cmp"
	"net/netip"
	"slices"
)

// MergePrefixes returns the prefixes masked and sorted, IPv4 first, without
// those that another one covers. Adjacent halves stay two entries: a user who
// deletes one of them again must find it.
func MergePrefixes(prefixes []netip.Prefix) []netip.Prefix {
	masked := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		masked = append(masked, p.Masked())
	}
	slices.SortFunc(masked, ComparePrefixes)
	var out []netip.Prefix
	for _, p := range masked {
		// Sorted by address and then by length, whatever covers p
		// stands before it, and the last entry kept covers all that
		// lies between.
		if n := len(out); n > 0 && PrefixCovers(out[n-1], p) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// ComparePrefixes orders prefixes by family (IPv4 first), address and length.
func ComparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// PrefixCovers says whether every address of inner lies in outer.
func PrefixCovers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Overlaps(inner)
}

// Halves returns the two halves of a prefix that is no single address.
func Halves(p netip.Prefix) (lower, upper netip.Prefix) {
	a := p.Addr().AsSlice()
	a[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	second, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(second, p.Bits()+1)
}

func compareMarks(a, b Mark) int {
	return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(a.Mask, b.Mask))
}
