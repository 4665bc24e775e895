// Package listtree lays long lists of prefixes out as trees in which a look-up reads one node a
// level, and few levels. bpf/listed.h looks up in the same.
//
// The prefixes of a family that lists have become ranges of powers of two addresses that do
// not overlap. In order, they are the leaves; the nodes above tell which leaf may have an
// address: the one of which the first range begins before it, and the next one does not.
//
//	node 0   shape: where the leaves begin, and each level above them
//	root     [ 10.255.255.255                   51.19.255.255   …        ]
//	         ╱                                 │                ╲
//	leaves   [ 1.0.0.0 +2^8  8.8.8.0 +2^4 … ]  [ 11.0.0.0 +2^24 … ]  …
//
// A node is a line of a processor's cache, of IPv6 four beside one another, whatever it is. Above
// the leaves it has of each child but the last the last address that the child is to be asked for.
// The children of node n of a level are n*branches and those behind it, of the level below, so
// there are no pointers. Each level is filled from the left; what is left
// free in a node is the highest value, which nothing is above, and in a leaf the range before
// it once more.
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

// A leaf has the first addresses of ranges, and then of each, in a byte, the bits in which its
// addresses differ.
const (
	leafRanges4 = int(abi.DatapathLimitLIST_LEAF4)
	leafRanges6 = int(abi.DatapathLimitLIST_LEAF6)
)

func isWide[K Key]() bool { return unsafe.Sizeof(K(0)) == unsafe.Sizeof(uint64(0)) }

// leafRanges is how many ranges a leaf has.
func leafRanges[K Key]() int {
	if isWide[K]() {
		return leafRanges6
	}
	return leafRanges4
}

// branches is how many children a node has.
func branches[K Key]() int {
	if isWide[K]() {
		return int(abi.DatapathLimitLIST_BRANCHES6)
	}
	return int(abi.DatapathLimitLIST_BRANCHES4)
}

// Width is how many words a node has.
func Width[K Key]() int { return branches[K]() - 1 }

// Fits says whether a tree can have a prefix.
func Fits(p netip.Prefix) bool {
	return p.Addr().Is4() || p.Bits() > 0 && p.Bits() <= keyBits6 && keyOf[uint64](p.Addr()) <= highest[uint64]()
}

// keyBits6 is how many bits of an address of IPv6 are looked at.
const keyBits6 = 64

// highest is the last key.
func highest[K Key]() K {
	if isWide[K]() {
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

// shapeOf returns the shape of a tree of so many ranges; nodes is how many nodes it has, the
// shape's among them. ok is false where they are too many.
func shapeOf[K Key](ranges int) (shape Shape, nodes int, ok bool) {
	if ranges == 0 {
		return Shape{}, 1, true
	}
	var levels []int // sizes, from below
	leaves := ceil(ranges, leafRanges[K]())
	for size := leaves; size > 1; {
		size = ceil(size, branches[K]())
		levels = append(levels, size)
	}
	if len(levels) > len(shape.Begins) {
		return Shape{}, 0, false
	}
	nodes = 1
	for i := range levels {
		shape.Begins[i] = uint32(nodes)
		nodes += levels[len(levels)-1-i]
	}
	shape.Levels, shape.Leaves, shape.Ranges = uint32(len(levels)), uint32(nodes), uint32(ranges)
	return shape, nodes + leaves, true
}

func ceil(n, by int) int { return (n + by - 1) / by }

// Shape returns how the tree is laid out.
func (t Tree[K]) Shape() *Shape { return (*Shape)(unsafe.Pointer(unsafe.SliceData(t.Nodes))) }

// node is the node of a number.
func (t Tree[K]) node(number int) []K { return t.Nodes[number*Width[K]():][:Width[K]()] }

// leaf is the leaf of a number.
func (t Tree[K]) leaf(number int) leaf[K] {
	n := leafRanges[K]()
	words := t.node(int(t.Shape().Leaves) + number)
	bits := unsafe.Slice((*byte)(unsafe.Pointer(&words[n])), n)
	return leaf[K]{words[:n], bits}
}

type leaf[K Key] struct {
	first []K
	bits  []byte
}

// Find returns until when lists have a key, and the last key of the range that has it. An
// empty tree, or memory of zeros, has none.
func (t Tree[K]) Find(key K) (ends uint32, last K) {
	if len(t.Nodes) == 0 || t.Shape().Leaves == 0 || key > highest[K]() {
		return Unlisted, 0
	}
	self := 0
	for _, begin := range t.Shape().Begins[:t.Shape().Levels] {
		child := 0
		for _, last := range t.node(int(begin) + self) {
			if last < key {
				child++
			}
		}
		self = self*branches[K]() + child
	}
	l := t.leaf(self)
	at := len(l.first) - 1
	for at >= 0 && l.first[at] > key {
		at--
	}
	if at < 0 || uint64(key-l.first[at])>>l.bits[at] != 0 {
		return Unlisted, 0
	}
	ends = ForEver
	if t.Shape().Lives != 0 {
		ends = t.Ends[self*len(l.first)+at]
	}
	return ends, l.first[at] + K(uint64(1)<<l.bits[at]-1)
}

// FindPrefix is Find for the first address of a prefix. all says whether the range has all of it.
func (t Tree[K]) FindPrefix(p netip.Prefix) (ends uint32, all bool) {
	ends, last := t.Find(keyOf[K](p.Addr()))
	_, end := span[K](p)
	return ends, ends != Unlisted && end <= last
}
