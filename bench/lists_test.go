package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/torbpf/torbpf/internal/lists"
)

// sizes of the lists, in entries.
var sizes = []int{10_000, 100_000, lists.MaxEntries}

// BenchmarkListRead reads a file of prefixes of both families in no order, the
// worst that a list can be, and reports how much it allocates.
func BenchmarkListRead(b *testing.B) {
	for _, n := range sizes {
		path := writeList(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := lists.Read(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkListMerge merges four such lists that have so many entries together.
func BenchmarkListMerge(b *testing.B) {
	for _, n := range sizes {
		var parts []*lists.List
		for range 4 {
			l, err := lists.Read(writeList(b, n/4))
			if err != nil {
				b.Fatal(err)
			}
			parts = append(parts, l)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := lists.Merge(parts...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkListChanged is what a look at a list costs that has not changed.
func BenchmarkListChanged(b *testing.B) {
	l, err := lists.Read(writeList(b, 1))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if changed, err := l.Changed(); changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}

// writeList writes n random prefixes of both families and returns the path.
func writeList(b *testing.B, n int) string {
	b.Helper()
	return writePrefixes(b, n, randomPrefix)
}

func writePrefixes(b *testing.B, n int, prefix func() netip.Prefix) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "list.txt")
	text := make([]byte, 0, 32*n)
	for range n {
		text = append(prefix().AppendTo(text), '\n')
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// randomPrefix is of the lengths that lists have: /16 to /24 of IPv4, /32 to
// /48 of 2000::/3.
func randomPrefix() netip.Prefix {
	if rand.IntN(2) == 0 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], rand.Uint32())
		return netip.PrefixFrom(netip.AddrFrom4(a), 16+rand.IntN(9)).Masked()
	}
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], rand.Uint64()>>3|1<<61)
	return netip.PrefixFrom(netip.AddrFrom16(a), 32+rand.IntN(17)).Masked()
}
