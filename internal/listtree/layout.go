// Package listtree lays long lists of prefixes out so that a look-up reads few lines of memory, and
// a million prefixes take little of it. bpf/listed.h looks up in the same.
//
// The prefixes of a family that lists have become ranges of powers of two addresses that do not
// overlap. In order, they are in leaves. Above 17 leaves of IPv4 or 33 of IPv6 is a node, and above
// the nodes a table by the upper bits of an address.
//
//	element 0  shape: where all else begins
//	slots      [ … node 7, or the next one …                             ]
//	                 ╲
//	tops           [ … 51.11.255.255 before node 7, 51.20.3.255 before 8 … ]
//	                     ╲
//	nodes                [ 51.12.0.255 of leaf 119, 51.12.9.31 of 120 …  ]
//	                                                   ╲
//	leaves                                             [ 51.12.1.0 +2^8, 51.12.9.0 +2^4 … ]
//
// An address is in a slot by how far it is from the first one that lists have. A slot tells which
// nodes its addresses may belong to, mostly one or two; the tops, which of those, by halves. A node
// has of each of its leaves but the last the last address that the leaf is to be asked for: the next
// one begins behind it. The leaves of node n are those from 17*n or 33*n on, so there are no
// pointers. What is left free in tops and nodes is the highest value, which nothing is above.
//
// A leaf of IPv6 has the first addresses of its ranges, and then of each, in a byte, the bits in
// which its addresses differ. One of IPv4 has of each range a code, which is twice its first
// address and how many addresses it has: that is the lowest bit that is set. Twice an address and 1
// differs from the code in no bit above that one if the range has it. Codes are less a base of the
// leaf, so that 20 bits do for each, or 30 where that makes fewer leaves: a leaf ends before a code
// that has no room, and large ranges are cut. What is left free in a leaf is its last range once
// more.
//
// Where a list has a life, there is a table of deadlines beside it, by the number of the range.
//
// IPv6 goes by the upper half of an address, and so far as that is less than 2^63: prefixes
// longer than /64, or in 8000::/1, are in no tree (Fits).
package listtree

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"github.com/torbpf/torbpf/internal/abi"
)

// Key is an address of IPv4 in host order, or the upper half of one of IPv6.
type Key interface{ uint32 | uint64 }

// Deadlines are seconds since boot but for these.
const (
	Unlisted = 0
	ForEver  = 1<<32 - 1
)

// Tree is what the maps of a family hold.
type Tree[K Key] struct {
	Nodes []K      // all nodes, the shape's first
	Ends  []uint32 // until when each range is listed; nothing where all are for ever
}

// Shape says how a tree is laid out.
type Shape = abi.DatapathListShape

func is6[K Key]() bool { return unsafe.Sizeof(K(0)) == unsafe.Sizeof(uint64(0)) }

// branches is how many leaves are below a node.
func branches[K Key]() int {
	if is6[K]() {
		return int(abi.DatapathLimitLIST_BRANCHES6)
	}
	return int(abi.DatapathLimitLIST_BRANCHES4)
}

// Width is how many words an element has: one more is below a node.
func Width[K Key]() int { return branches[K]() - 1 }

// slotsOf is how many slots there are in an element.
func slotsOf[K Key]() int {
	return Width[K]() * int(unsafe.Sizeof(K(0))/unsafe.Sizeof(abi.DatapathListSlot{}))
}

// Fits says whether a tree can have a prefix.
func Fits(p netip.Prefix) bool {
	return p.Addr().Is4() || p.Bits() > 0 && p.Bits() <= keyBits6 && keyOf[uint64](p.Addr()) <= highest[uint64]()
}

// keyBits6 is how many bits of an address of IPv6 are looked at.
const keyBits6 = 64

// highest is the last key.
func highest[K Key]() K {
	if is6[K]() {
		return ^K(0) >> 1
	}
	return ^K(0)
}

func keyOf[K Key](a netip.Addr) K {
	if a.Is4() {
		b := a.As4()
		return K(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return K(binary.BigEndian.Uint64(b[:]))
}

// span returns the first and the last key of a prefix that fits.
func span[K Key](p netip.Prefix) (first, last K) {
	first = keyOf[K](p.Addr())
	return first, first | ^K(0)>>p.Bits()
}

func ceil(n, by int) int { return (n + by - 1) / by }

// Shape returns how the tree is laid out.
func (t Tree[K]) Shape() *Shape { return (*Shape)(unsafe.Pointer(unsafe.SliceData(t.Nodes))) }

// words are those of an element, and of all behind it.
func (t Tree[K]) words(element int) []K { return t.Nodes[element*Width[K]():] }

// tops are the last keys before nodes, and what is behind them.
func (t Tree[K]) tops() []K { return t.words(int(t.Shape().Tops)) }

// node is the node of a number.
func (t Tree[K]) node(number int) []K { return t.words(int(t.Shape().Nodes) + number)[:Width[K]()] }

// leaf is the leaf of a number.
func (t Tree[K]) leaf(number int) []K { return t.words(int(t.Shape().Leaves) + number)[:Width[K]()] }

// slots are those of all keys, and what is behind them.
func (t Tree[K]) slots() []abi.DatapathListSlot {
	words := t.words(int(t.Shape().Slots))
	slot := (*abi.DatapathListSlot)(unsafe.Pointer(unsafe.SliceData(words)))
	return unsafe.Slice(slot, len(words)/Width[K]()*slotsOf[K]())
}

// form is that of the leaves.
func (t Tree[K]) form() form { return formsOf[K]()[t.Shape().Wide] }

// Find returns until when lists have a key, and the last key of the range that has it. An
// empty tree, or memory of zeros, has none.
func (t Tree[K]) Find(key K) (ends uint32, last K) {
	shape := t.Shape()
	if shape == nil || shape.Leaves == 0 || uint64(key)-shape.First > shape.Span {
		return Unlisted, 0
	}
	slot := t.slots()[(uint64(key)-shape.First)>>shape.SlotBits]
	node := int(slot.Node)
	for half := int(slot.Half); half > 0; half /= 2 {
		if t.tops()[node+half] < key {
			node += half
		}
	}
	leaf := node * branches[K]()
	for _, last := range t.node(node) {
		if last < key {
			leaf++
		}
	}
	f := t.form()
	for at := range f.ranges {
		r := get(f, t.leaf(leaf), at)
		if key < r.first || key > r.last() {
			continue
		}
		if shape.Lives != 0 {
			return t.Ends[leaf*f.ranges+at], r.last()
		}
		return ForEver, r.last()
	}
	return Unlisted, 0
}

// FindPrefix is Find for the first address of a prefix. all says whether ranges have all of it.
func (t Tree[K]) FindPrefix(p netip.Prefix) (ends uint32, all bool) {
	first, end := span[K](p)
	ends, last := t.Find(first)
	for more := ends; more != Unlisted; more, last = t.Find(last + 1) {
		if end <= last {
			return ends, true
		}
	}
	return ends, false
}
