package model

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/listtree"
	"github.com/torbpf/torbpf/internal/plan"
)

// listEnds is the second at which an entry of a list ends: long ago, far off, or never. Nested
// ones end at different times.
func listEnds(e PrefixPolicy) uint32 {
	switch {
	case e.Ended:
		return 1
	case e.Prefix.Bits()%2 == 1:
		return 1 << 30
	}
	return listtree.ForEver
}

// setLists writes lists as the loader does, into tries, or into trees what fits there.
func (o *objects) setLists(list prefixList) {
	o.tb.Helper()
	for _, name := range []string{"list4_nodes", "list6_nodes"} {
		if err := o.maps[name].Put(uint32(0), make([]byte, o.maps[name].ValueSize())); err != nil {
			o.tb.Fatalf("clear map %s: %v", name, err)
		}
	}
	for i, of := range []prefixList{list.of(true), list.of(false)} {
		inTrie := of
		if o.trees {
			inTrie = slices.DeleteFunc(slices.Clone(of), func(e PrefixPolicy) bool { return listtree.Fits(e.Prefix) })
			if len(inTrie) < len(of) {
				[]func(*objects, prefixList, bool){putTree[uint32], putTree[uint64]}[i](o, of, len(inTrie) > 0)
			}
		}
		for _, e := range inTrie.outlasting() {
			value := abi.DatapathListed{UntilS: listEnds(e)}
			if value.UntilS == listtree.ForEver {
				value.UntilS = 0
			}
			o.putPrefix("list", e.Prefix, value)
		}
	}
}

// of returns what a list has of a family.
func (l prefixList) of(is4 bool) (out prefixList) {
	for _, e := range l {
		if e.Prefix.Addr().Is4() == is4 {
			out = append(out, e)
		}
	}
	return out
}

// outlasting returns the entries that last longer than all that cover them. Of nested ones the
// others say nothing, so that one look-up in a trie decides.
func (l prefixList) outlasting() (out prefixList) {
	sorted := slices.SortedFunc(slices.Values(l), func(a, b PrefixPolicy) int {
		if c := config.ComparePrefixes(a.Prefix, b.Prefix); c != 0 {
			return c
		}
		return int(int64(listEnds(b)) - int64(listEnds(a)))
	})
	var around prefixList // each covers the next
	for _, e := range sorted {
		for len(around) > 0 && !config.PrefixCovers(around[len(around)-1].Prefix, e.Prefix) {
			around = around[:len(around)-1]
		}
		if len(around) == 0 || listEnds(e) > listEnds(around[len(around)-1]) {
			around, out = append(around, e), append(out, e)
		}
	}
	return out
}

// putTree writes the tree of a family.
func putTree[K listtree.Key](o *objects, list prefixList, beside bool) {
	o.tb.Helper()
	ofEnd := make(map[uint32][]netip.Prefix)
	for _, e := range list {
		ofEnd[listEnds(e)] = append(ofEnd[listEnds(e)], e.Prefix)
	}
	var parts []listtree.Part
	for ends, prefixes := range ofEnd {
		parts = append(parts, listtree.Part{Ends: ends, Prefixes: config.MergePrefixes(prefixes)})
	}
	plan, err := listtree.NewPlan[K](parts, beside)
	if err != nil {
		o.tb.Fatal(err)
	}
	const perEntry = abi.DatapathLimitLIST_ENDS
	tree := listtree.Tree[K]{
		Nodes: make([]K, plan.Nodes()*listtree.Width[K]()),
		Ends:  make([]uint32, (plan.Ends()+int(perEntry)-1)/int(perEntry)*int(perEntry)),
	}
	plan.Write(tree)
	family := "list4"
	if list[0].Prefix.Addr().Is6() {
		family = "list6"
	}
	i := uint32(0)
	for node := range slices.Chunk(tree.Nodes, listtree.Width[K]()) {
		o.put(family+"_nodes", i, node)
		i++
	}
	i = 0
	for ends := range slices.Chunk(tree.Ends, int(perEntry)) {
		o.put(family+"_ends", i, ends)
		i++
	}
}

// TestTreesAndTriesSayTheSame puts lists into tries and into trees of several levels, and asks
// both for all edges of what is listed.
func TestTreesAndTriesSayTheSame(t *testing.T) {
	enterNamespace(t)
	const entries = 4000
	o := loadWith(t, 24, plan.Plan{Ports: ports}, entries)
	r := rand.New(rand.NewPCG(5, 6))
	for _, shape := range []struct {
		name  string
		ended int // one of so many; 0: none
		lives bool
		n     int
		long  int // the longest prefix of IPv6
		near  int // in how many bits all addresses of IPv4 are the same
	}{
		{"for ever", 0, false, entries, 64, 0}, {"with lives", 4, true, entries, 64, 0}, {"with hosts beside", 4, true, entries / 2, 128, 0},
		{"near one another", 0, false, entries, 64, 10}, {"near, with lives", 4, true, entries, 64, 10}, {"one address beside the other", 0, false, entries, 64, 20},
		{"few", 3, true, 5, 64, 0}, {"one", 0, false, 1, 64, 0}, {"all ended", 1, true, 40, 64, 0},
	} {
		t.Run(shape.name, func(t *testing.T) {
			var list prefixList
			for range shape.n / 2 {
				for _, p := range []netip.Prefix{listPrefix4(r, shape.near), listPrefix6(r, shape.long)} {
					if !shape.lives && p.Bits()%2 == 1 { // see listEnds
						p = netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
					}
					list = append(list, PrefixPolicy{Prefix: p, Ended: shape.ended > 0 && r.IntN(shape.ended) == 0})
				}
			}
			list = append(list, PrefixPolicy{Prefix: netip.MustParsePrefix("255.255.255.254/32")}, PrefixPolicy{Prefix: netip.MustParsePrefix("fc00::/8")},
				PrefixPolicy{Prefix: netip.MustParsePrefix("7fff:ffff:ffff:fffe::/64")}, PrefixPolicy{Prefix: netip.MustParsePrefix("0.0.0.0/30")})
			p := home()
			p.Lists, p.Destinations = list, nil
			for _, o.trees = range []bool{false, true} {
				o.set(p)
				askEdges(t, o, p, list, r)
			}
		})
	}
}

func listPrefix4(r *rand.Rand, near int) netip.Prefix {
	var a [4]byte
	shortest := max(12, near+8)
	binary.BigEndian.PutUint32(a[:], r.Uint32()>>r.IntN(4))
	if near > 0 {
		binary.BigEndian.PutUint32(a[:], 62<<24|r.Uint32()>>near)
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), shortest+r.IntN(33-shortest)).Masked()
}

func listPrefix6(r *rand.Rand, long int) netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], r.Uint64()>>(1+r.IntN(3)))
	binary.BigEndian.PutUint64(a[8:], r.Uint64())
	return netip.PrefixFrom(netip.AddrFrom16(a), 20+r.IntN(long-19)).Masked()
}

// askEdges has the program and the model judge packets to the edges of some prefixes.
func askEdges(t *testing.T, o *objects, p *Policy, list prefixList, r *rand.Rand) {
	t.Helper()
	for range 1000 {
		prefix := list[r.IntN(len(list))].Prefix
		last := lastOf(prefix)
		for _, a := range []netip.Addr{prefix.Addr().Prev(), prefix.Addr(), last, last.Next()} {
			if !a.IsValid() {
				continue
			}
			source := laptop4
			if a.Is6() {
				source = laptop6
			}
			if err := o.compare(p, "torbpf_lan", ether(ip(source, a.String(), tcp(40000, 443, tcpSYN))), 0); err != nil {
				t.Fatalf("in a tree %t: %s of %s: %v", o.trees, a, prefix, err)
			}
		}
	}
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
