package bench

import (
	"fmt"
	"testing"

	"github.com/torbpf/torbpf/internal/lists"
	"github.com/torbpf/torbpf/loader"
)

// BenchmarkListMaps fills the maps of a list of both families in no order, and reports how
// many entries are left when it is merged, and what each takes of the kernel's memory.
func BenchmarkListMaps(b *testing.B) {
	for _, n := range sizes {
		list := readList(b, n)
		maps := fillLists(b, list)
		defer maps.Close()
		taken, err := maps.Memory()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if err := fillLists(b, list).Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(list.Prefixes)), "entries")
			b.ReportMetric(float64(taken)/float64(len(list.Prefixes)), "B/entry")
		})
	}
}

func readList(b *testing.B, n int) *lists.List {
	b.Helper()
	list, err := lists.Read(writeList(b, n))
	if err != nil {
		b.Fatal(err)
	}
	return list
}

func fillLists(b *testing.B, list *lists.List) *loader.Lists {
	b.Helper()
	maps, err := loader.NewLists(list.Digest, []loader.ListGroup{{Prefixes: list.Prefixes}})
	if err != nil {
		b.Fatal(err)
	}
	return maps
}
