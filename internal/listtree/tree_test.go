package listtree

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// build makes a tree of prefixes of one family.
func build[K Key](t testing.TB, parts []Part) Tree[K] {
	t.Helper()
	p, err := NewPlan[K](parts, false)
	if err != nil {
		t.Fatal(err)
	}
	tree := Tree[K]{Nodes: make([]K, p.Nodes()*Width[K]()), Ends: make([]uint32, p.Ends())}
	for i := range tree.Nodes { // nothing may be left of what was there
		tree.Nodes[i] = 0x5a5a5a5a
	}
	p.Write(tree)
	return tree
}

// plain says when lists give an address up, the obvious way.
func plain(parts []Part, a netip.Addr) uint32 {
	ends := uint32(Unlisted)
	for _, part := range parts {
		for _, p := range part.Prefixes {
			if Fits(p) && p.Contains(a) {
				ends = max(ends, part.Ends)
			}
		}
	}
	return ends
}

// addrOf is the address of a key.
func addrOf[K Key](key K) netip.Addr {
	if unsafe.Sizeof(key) == 4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(key))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(key))
	return netip.AddrFrom16(b)
}

// randomParts are lists with nested and adjacent prefixes, of which many lie at the edges.
func randomParts[K Key](r *rand.Rand, n int) []Part {
	bits := addrOf(K(0)).BitLen()
	deadlines := []uint32{ForEver, 1, 1000, 2000, ForEver - 1}
	var parts []Part
	for _, i := range r.Perm(len(deadlines))[:1+r.IntN(len(deadlines))] {
		var list []netip.Prefix
		for range 1 + r.IntN(n) {
			list = append(list, randomPrefix[K](r, bits))
		}
		parts = append(parts, Part{Ends: deadlines[i], Prefixes: config.MergePrefixes(list)})
	}
	return parts
}

func randomPrefix[K Key](r *rand.Rand, bits int) netip.Prefix {
	key := K(r.Uint64())
	switch r.IntN(4) {
	case 0:
		key = K(r.IntN(64)) << r.IntN(40)
	case 1:
		key = highest[K]() - K(r.IntN(64))
	}
	a, long := addrOf(key), 1+r.IntN(bits)
	if bits == 128 && r.IntN(2) == 0 {
		long = 1 + r.IntN(64)
	}
	p, err := a.Prefix(long)
	if err != nil {
		panic(err)
	}
	return p
}

// TestTreesSayWhatPlainListsSay compares the two at all edges of all segments, and elsewhere.
func TestTreesSayWhatPlainListsSay(t *testing.T) {
	t.Run("ipv4", compareMany[uint32])
	t.Run("ipv6", compareMany[uint64])
}

func compareMany[K Key](t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 400 {
		parts := randomParts[K](r, []int{1, 4, 40, 200}[round%4])
		tree := build[K](t, parts)
		keys := []K{0, 1, highest[K](), highest[K]() - 1}
		for range 50 {
			keys = append(keys, K(r.Uint64())&highest[K]())
		}
		for _, part := range parts {
			for _, p := range part.Prefixes {
				if Fits(p) {
					first, last := span[K](p)
					keys = append(keys, first, last, (first-1)&highest[K](), (last+1)&highest[K]())
				}
			}
		}
		for _, key := range keys {
			compareAt(t, parts, tree, key)
		}
		if t.Failed() {
			t.Fatalf("of %v: %+v", parts, *tree.Shape())
		}
	}
}

func compareAt[K Key](t *testing.T, parts []Part, tree Tree[K], key K) {
	t.Helper()
	ends, last := tree.Find(key)
	if want := plain(parts, addrOf(key)); ends != want {
		t.Errorf("%s ends at %d, want %d", addrOf(key), ends, want)
	}
	if ends != Unlisted && (last < key || plain(parts, addrOf(last)) != ends) {
		t.Errorf("the range of %s goes to %s, which ends otherwise", addrOf(key), addrOf(last))
	}
}

// TestFullTrees: filled to the last place of a leaf, and of a node, and one further; of many nodes.
func TestFullTrees(t *testing.T) {
	for _, leaves := range []int{1, 2, 17, 18, 33, 34, 400} {
		t.Run("ipv4", func(t *testing.T) { fullTrees[uint32](t, leaves, 2, false) })
		t.Run("ipv4, far apart", func(t *testing.T) {
			fullTrees[uint32](t, leaves, min(1<<24, 1<<31/uint32(leaves*wide4.ranges+2)), true)
		})
		t.Run("ipv6", func(t *testing.T) { fullTrees[uint64](t, leaves, 1<<40, false) })
	}
}

func fullTrees[K Key](t *testing.T, leaves int, apart K, wide bool) {
	f := formsOf[K]()[flag(wide)]
	for n, want := range map[int]int{leaves*f.ranges - 1: leaves, leaves * f.ranges: leaves, leaves*f.ranges + 1: leaves + 1} {
		var list []netip.Prefix
		for i := range n {
			list = append(list, netip.PrefixFrom(addrOf(K(i+1)*apart), 8*int(unsafe.Sizeof(apart))))
		}
		tree := build[K](t, []Part{{ForEver, list}})
		if shape := tree.Shape(); len(tree.words(int(shape.Leaves))) != want*Width[K]() || int(shape.Ranges) != n || tree.form() != f {
			t.Errorf("%d prefixes have %d leaves of %v and %d ranges, want %d of %v", n, len(tree.words(int(shape.Leaves)))/Width[K](), tree.form(), shape.Ranges, want, f)
		}
		for i := range n {
			key := K(i+1) * apart
			for k, want := range map[K]bool{key - 1: false, key: true, key + 1: false} {
				if ends, _ := tree.Find(k); (ends == ForEver) != want {
					t.Fatalf("of %d: %s ends at %d", n, addrOf(k), ends)
				}
			}
		}
		if ends, _ := tree.Find(highest[K]()); ends != Unlisted {
			t.Errorf("the last address ends at %d", ends)
		}
	}
}

// TestCrowdsAmongFew: a slot may have many nodes, and nodes many slots.
func TestCrowdsAmongFew(t *testing.T) {
	t.Run("ipv4", crowdsAmongFew[uint32])
	t.Run("ipv6", crowdsAmongFew[uint64])
}

func crowdsAmongFew[K Key](t *testing.T) {
	bits := 8 * int(unsafe.Sizeof(K(0)))
	steps := 0
	for seed := range uint64(2) {
		r := rand.New(rand.NewPCG(seed, 0))
		has := make(map[K]bool)
		for range 3 {
			crowd := K(r.Uint64()) & highest[K]()
			for range 20_000 {
				has[(crowd+2*K(r.IntN(1<<16)))&highest[K]()] = true
				has[K(r.Uint64())&highest[K]()] = r.IntN(20) == 0
			}
		}
		var list []netip.Prefix
		for key, in := range has {
			if in {
				list = append(list, netip.PrefixFrom(addrOf(key), bits))
			}
		}
		tree := build[K](t, []Part{{ForEver, config.MergePrefixes(list)}})
		for _, s := range tree.slots()[:1+tree.Shape().Span>>tree.Shape().SlotBits] {
			steps = max(steps, int(s.Half))
		}
		for key := range has {
			for _, k := range []K{key, (key - 1) & highest[K](), (key + 1) & highest[K]()} {
				if ends, _ := tree.Find(k); (ends == ForEver) != has[k] {
					t.Fatalf("%s ends at %d", addrOf(k), ends)
				}
			}
		}
	}
	if steps < 8 {
		t.Errorf("no slot takes more than %d nodes", 2*steps)
	}
}

// TestLargeRangesAreCut, so that codes have few bits; nobody who asks notices.
func TestLargeRangesAreCut(t *testing.T) {
	p := netip.MustParsePrefix
	few := []netip.Prefix{p("0.0.0.0/1"), p("128.0.0.1/32"), p("192.0.0.0/2")}
	tree := build[uint32](t, []Part{{ForEver, few}})
	if got := len(tree.words(int(tree.Shape().Leaves))) / Width[uint32](); got != (1<<6+1<<5)/8+1 {
		t.Errorf("%v have %d leaves", few, got)
	}
	for _, key := range []uint32{0, 1<<25 - 1, 1 << 25, 1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<31 + 2, 3<<30 - 1, 3 << 30, 1<<32 - 1} {
		compareAt(t, []Part{{ForEver, few}}, tree, key)
	}
}

// TestNeighboursAreJoined: what is one range is cut into the fewest.
func TestNeighboursAreJoined(t *testing.T) {
	p := netip.MustParsePrefix
	for name, c := range map[string]struct {
		parts  []Part
		ranges uint32
		lives  uint32
	}{
		"neighbours":   {[]Part{{ForEver, []netip.Prefix{p("10.0.0.0/8"), p("11.0.0.0/16"), p("11.1.0.0/24")}}}, 3, 0},
		"aligned":      {[]Part{{ForEver, []netip.Prefix{p("1.0.0.0/8"), p("2.0.0.0/7"), p("4.0.0.0/8")}}}, 3, 0},
		"joined":       {[]Part{{ForEver, []netip.Prefix{p("2.0.0.0/8"), p("3.0.0.0/9"), p("3.128.0.0/9")}}}, 1, 0},
		"from first":   {[]Part{{ForEver, []netip.Prefix{p("0.0.0.0/8"), p("1.0.0.0/8")}}}, 1, 0},
		"to last":      {[]Part{{ForEver, []netip.Prefix{p("254.0.0.0/8"), p("255.0.0.0/8")}}}, 1, 0},
		"nothing":      {nil, 0, 0},
		"covered":      {[]Part{{ForEver, []netip.Prefix{p("10.0.0.0/8")}}, {7, []netip.Prefix{p("10.1.0.0/16")}}}, 1, 0},
		"longer life":  {[]Part{{7, []netip.Prefix{p("10.0.0.0/8")}}, {ForEver, []netip.Prefix{p("10.128.0.0/16")}}}, 9, 1},
		"other life":   {[]Part{{7, []netip.Prefix{p("10.0.0.0/8")}}, {8, []netip.Prefix{p("11.0.0.0/8")}}}, 2, 1},
		"all of it":    {[]Part{{ForEver, []netip.Prefix{p("0.0.0.0/1"), p("128.0.0.0/1")}}}, 1, 0},
		"one, of both": {[]Part{{7, []netip.Prefix{p("10.0.0.0/8")}}, {9, []netip.Prefix{p("10.0.0.0/8")}}}, 1, 1},
	} {
		got := build[uint32](t, c.parts).Shape()
		if got.Ranges != c.ranges || got.Lives != c.lives {
			t.Errorf("%s: %d ranges, lives %d; want %d and %d", name, got.Ranges, got.Lives, c.ranges, c.lives)
		}
	}
}

// TestNoMoreRangesThanPrefixes: or a list could outgrow what was measured.
func TestNoMoreRangesThanPrefixes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		parts := randomParts[uint32](r, 60)[:1]
		if got := build[uint32](t, parts).Shape().Ranges; int(got) > len(parts[0].Prefixes) {
			t.Fatalf("%d prefixes are %d ranges", len(parts[0].Prefixes), got)
		}
	}
}

// TestWhatFits: the tree of IPv6 has no host, and nothing of the upper half of the space.
func TestWhatFits(t *testing.T) {
	for text, want := range map[string]bool{
		"10.0.0.0/8": true, "255.255.255.255/32": true, "0.0.0.0/32": true,
		"::/1": true, "::/64": true, "7fff:ffff:ffff:ffff::/64": true, "2000::/3": true,
		"::/65": false, "2001:db8::1/128": false, "8000::/1": false, "fc00::/7": false, "::/0": false,
	} {
		if got := Fits(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s fits: %t", text, got)
		}
	}
}

// TestFindPrefix: a prefix is there only as a whole.
func TestFindPrefix(t *testing.T) {
	p := netip.MustParsePrefix
	tree := build[uint64](t, []Part{{ForEver, []netip.Prefix{p("::/1")}}})
	for text, want := range map[string]bool{"::/1": true, "::/0": false, "2001:db8::/32": true, "2001:db8::1/128": true, "8000::/1": false, "fe80::1/128": false} {
		ends, all := tree.FindPrefix(p(text))
		if all != want || (ends != Unlisted) != (want || text == "::/0") {
			t.Errorf("%s is there: %t, until %d", text, all, ends)
		}
	}
	some := build[uint32](t, []Part{{9, []netip.Prefix{p("10.0.0.0/8"), p("255.255.255.0/24")}}})
	for text, want := range map[string]bool{"10.0.0.0/8": true, "10.0.0.0/7": false, "10.1.0.0/16": true, "8.0.0.0/6": false, "11.0.0.0/8": false, "255.255.255.255/32": true, "0.0.0.0/0": false} {
		if _, all := some.FindPrefix(p(text)); all != want {
			t.Errorf("%s is there: %t", text, all)
		}
	}
}

// TestNoTree: memory of zeros, as a map is made, has nothing, nor has a tree of nothing.
func TestNoTree(t *testing.T) {
	for _, tree := range []Tree[uint32]{{}, {Nodes: make([]uint32, Width[uint32]())}, build[uint32](t, nil)} {
		for _, key := range []uint32{0, 5, 1<<32 - 1} {
			if ends, _ := tree.Find(key); ends != Unlisted {
				t.Errorf("found %d until %d", key, ends)
			}
		}
	}
}

// TestTooMany: what no tree can have is refused before anything is allocated.
func TestTooMany(t *testing.T) {
	p := &Plan[uint64]{firsts: make([]uint64, branches[uint64]()*math.MaxUint16)}
	if err := p.layOut(0); err != nil {
		t.Errorf("%d leaves are refused: %v", len(p.firsts), err)
	}
	p = &Plan[uint64]{firsts: append(p.firsts, 0)}
	if err := p.layOut(0); !errors.Is(err, ErrTooMany) {
		t.Errorf("%d leaves: %v", len(p.firsts), err)
	}
}

// TestNodesAreThoseOfTheMaps: bpf/abi.h says what they are.
func TestNodesAreThoseOfTheMaps(t *testing.T) {
	node4, node6 := int(unsafe.Sizeof(abi.DatapathListNode4{})), int(unsafe.Sizeof(abi.DatapathListNode6{}))
	for name, got := range map[string][2]int{
		"node, IPv4":  {4 * Width[uint32](), node4},
		"node, IPv6":  {8 * Width[uint64](), node6},
		"leaf, IPv4":  {int(unsafe.Sizeof(abi.DatapathListLeaf4{})), node4},
		"leaf, IPv6":  {int(unsafe.Sizeof(abi.DatapathListLeaf6{})), node6},
		"shape":       {int(unsafe.Sizeof(Shape{})), node4},
		"slots, IPv4": {slotsOf[uint32]() * int(unsafe.Sizeof(abi.DatapathListSlot{})), node4},
		"slots, IPv6": {slotsOf[uint64]() * int(unsafe.Sizeof(abi.DatapathListSlot{})), node6},
		"steps":       {bits.Len(math.MaxUint16), int(abi.DatapathLimitMAX_LIST_STEPS)},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d and %d", name, got[0], got[1])
		}
	}
}

// FuzzTree takes prefixes from bytes, of IPv4 or IPv6.
func FuzzTree(f *testing.F) {
	f.Add(false, []byte("\x00\x00\x00\x00\x01\x00\xff\xff\xff\xff\x20\x01"))
	f.Add(false, []byte("\x0a\x00\x00\x00\x08\x00\x0a\x01\x00\x00\x10\x02\x0b\x00\x00\x00\x08\x01"))
	f.Add(true, []byte("\x20\x01\x0d\xb8\x00\x00\x00\x01\x40\x00\x20\x01\x0d\xb8\x00\x00\x00\x03\x10\x01"))
	f.Fuzz(func(t *testing.T, ipv6 bool, raw []byte) {
		raw = raw[:min(len(raw), 1200)]
		if ipv6 {
			fuzzTree[uint64](t, raw)
			return
		}
		fuzzTree[uint32](t, raw)
	})
}

func fuzzTree[K Key](t *testing.T, raw []byte) {
	size := int(unsafe.Sizeof(K(0)))
	ofEnd := make(map[uint32][]netip.Prefix)
	for ; len(raw) >= size+2; raw = raw[size+2:] {
		key := K(0)
		for _, b := range raw[:size] {
			key = key<<8 | K(b)
		}
		p := netip.PrefixFrom(addrOf(key&highest[K]()), 1+int(raw[size])%(8*size)).Masked()
		ends := []uint32{ForEver, 1, 2, 3}[raw[size+1]%4]
		ofEnd[ends] = append(ofEnd[ends], p)
	}
	var parts []Part
	for ends, list := range ofEnd {
		parts = append(parts, Part{ends, config.MergePrefixes(list)})
	}
	tree := build[K](t, parts)
	for _, part := range parts {
		for _, p := range part.Prefixes {
			first, last := span[K](p)
			for _, key := range []K{first - 1, first, last, last + 1} {
				compareAt(t, parts, tree, key&highest[K]())
			}
		}
	}
}
