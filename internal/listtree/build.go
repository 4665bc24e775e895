package listtree

import (
	"cmp"
	"errors"
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
)

// Part is what lists hold together that end at one time.
type Part struct {
	Ends     uint32         // second since boot, or ForEver
	Prefixes []netip.Prefix // of one family, sorted, none covered by another; those that do not fit are passed over
}

// Plan is a tree that is still to be written.
type Plan[K Key] struct {
	parts    []Part // what ends last first
	shape    Shape
	form     form
	firsts   []K // of each leaf
	slots    []abi.DatapathListSlot
	elements int
}

// ErrTooMany says that there are more ranges than a tree can have.
var ErrTooMany = errors.New("more prefixes than a tree can have")

// NewPlan counts what the tree of these parts needs. They must not change until it is written.
// beside says that there are lists in the trie as well.
func NewPlan[K Key](parts []Part, beside bool) (*Plan[K], error) {
	p := &Plan[K]{parts: slices.Clone(parts), elements: 1}
	slices.SortFunc(p.parts, func(a, b Part) int { return cmp.Compare(b.Ends, a.Ends) })
	var counters []*counter[K]
	for _, f := range formsOf[K]() {
		counters = append(counters, newCounter[K](f))
	}
	ranges, lives, last := 0, false, K(0)
	p.each(func(r lasting[K]) {
		ranges++
		lives = lives || r.ends != ForEver
		last = r.last()
		for _, c := range counters {
			c.add(r)
		}
	})
	for i, c := range counters {
		c.flush()
		if i == 0 || len(c.firsts) < len(p.firsts) {
			p.form, p.firsts = c.form, c.firsts
		}
	}
	p.shape.Ranges, p.shape.Lives, p.shape.Trie, p.shape.Wide = uint32(ranges), flag(lives), flag(beside), flag(p.form == wide4)
	if ranges == 0 {
		return p, nil
	}
	return p, p.layOut(last)
}

// counter remembers with which key each leaf begins.
type counter[K Key] struct {
	packer[K]
	firsts []K
}

func newCounter[K Key](f form) *counter[K] {
	c := &counter[K]{packer: packer[K]{form: f}}
	c.take = func(_ K, ranges []lasting[K]) { c.firsts = append(c.firsts, ranges[0].first) }
	return c
}

func flag(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

// layOut says where all is, if the lists' last key is this.
func (p *Plan[K]) layOut(last K) error {
	nodes := p.nodes()
	if nodes > math.MaxUint16 {
		return ErrTooMany
	}
	s := &p.shape
	s.First, s.Span = uint64(p.firsts[0]), uint64(last-p.firsts[0])
	s.SlotBits = uint32(max(0, bits.Len64(s.Span)-bits.Len(uint(max(Width[K](), len(p.firsts)/leavesOfSlot)-1))))
	tops := p.fillSlots()
	place := func(begin *uint32, elements int) {
		*begin = uint32(p.elements)
		p.elements += elements
	}
	place(&s.Slots, ceil(len(p.slots), slotsOf[K]()))
	place(&s.Tops, ceil(tops, Width[K]()))
	place(&s.Nodes, nodes)
	place(&s.Leaves, len(p.firsts))
	return nil
}

// leavesOfSlot is how many leaves there are about for each slot where lists are even. So the table
// of the slots is small, and few of them have more than two nodes.
const leavesOfSlot = 4

// fillSlots says which nodes each slot has. It returns how many tops are looked at.
func (p *Plan[K]) fillSlots() (tops int) {
	first, last := 0, 0 // nodes of a slot
	before := func(node int, key uint64) bool {
		return node < p.nodes() && uint64(p.firsts[node*branches[K]()]) <= key
	}
	for slot := range p.shape.Span>>p.shape.SlotBits + 1 {
		begin := p.shape.First + slot<<p.shape.SlotBits
		for before(first+1, begin) {
			first++
		}
		for before(last+1, begin+1<<p.shape.SlotBits-1) {
			last++
		}
		half := 1 << max(0, bits.Len(uint(last-first))-1) // nearly all take one step, which a processor can foresee
		p.slots = append(p.slots, abi.DatapathListSlot{Node: uint16(first), Half: uint16(half)})
		tops = max(tops, first+2*half)
	}
	return tops
}

func (p *Plan[K]) nodes() int { return ceil(len(p.firsts), branches[K]()) }

// Nodes is how many elements there are.
func (p *Plan[K]) Nodes() int { return p.elements }

// Ends is how many deadlines there are.
func (p *Plan[K]) Ends() int {
	if p.shape.Lives == 0 {
		return 0
	}
	return len(p.firsts) * p.form.ranges
}

// Write fills a tree that has as many nodes and deadlines.
func (p *Plan[K]) Write(t Tree[K]) {
	*t.Shape() = p.shape
	if len(p.firsts) == 0 {
		return
	}
	clear(t.slots()[copy(t.slots(), p.slots):][:-len(p.slots)&(slotsOf[K]()-1)])
	for i := range t.tops()[:int(p.shape.Nodes-p.shape.Tops)*Width[K]()] {
		t.tops()[i] = p.before(i * branches[K]())
	}
	for i := range p.nodes() {
		node := t.node(i)
		for child := range node {
			node[child] = p.before(i*branches[K]() + child + 1)
		}
	}
	p.writeLeaves(t)
}

// before is the last key before a leaf; the highest if there is no leaf of the number.
func (p *Plan[K]) before(leaf int) K {
	if leaf < len(p.firsts) {
		return max(p.firsts[leaf], 1) - 1
	}
	return highest[K]()
}

func (p *Plan[K]) writeLeaves(t Tree[K]) {
	number := 0
	pack := packer[K]{form: p.form, take: func(base K, ranges []lasting[K]) {
		leaf := t.leaf(number)
		clear(leaf)
		for at := range p.form.ranges {
			r := ranges[min(at, len(ranges)-1)]
			put(p.form, leaf, at, base, r.keys)
			if p.shape.Lives != 0 {
				t.Ends[number*p.form.ranges+at] = r.ends
			}
		}
		number++
	}}
	p.each(pack.add)
	pack.flush()
}

// each calls take with every range in order. Of parts that have the same address the one that
// ends last counts.
func (p *Plan[K]) each(take func(lasting[K])) {
	var first, last K
	ends := uint32(Unlisted)
	p.segments(func(f, l K, e uint32) {
		if e == ends && f == last+1 {
			last = l
			return
		}
		split(first, last, ends, take)
		first, last, ends = f, l, e
	})
	split(first, last, ends, take)
}

// split cuts what is listed into ranges that begin at a multiple of their size, of which there are
// never more than prefixes of the same.
func split[K Key](first, last K, ends uint32, take func(lasting[K])) {
	if ends == Unlisted {
		return
	}
	for left := uint64(last-first) + 1; left > 0; {
		size := bits.Len64(left) - 1
		if first != 0 {
			size = min(size, bits.TrailingZeros64(uint64(first)))
		}
		take(lasting[K]{keys[K]{first, size}, ends})
		first += K(uint64(1) << size)
		left -= uint64(1) << size
	}
}

// segments calls take with all that is listed, in order.
func (p *Plan[K]) segments(take func(first, last K, ends uint32)) {
	cursors := make([]cursor[K], len(p.parts))
	for i, part := range p.parts {
		cursors[i].rest = part.Prefixes
		cursors[i].next()
	}
	for at := K(0); ; at++ {
		ends, last := uint32(Unlisted), highest[K]()
		for i := range cursors {
			c := &cursors[i]
			c.skip(at)
			if c.over {
				continue
			}
			if c.first <= at {
				ends, last = p.parts[i].Ends, min(last, c.last)
				break
			}
			last = min(last, c.first-1)
		}
		if ends != Unlisted {
			take(at, last, ends)
		}
		if last == highest[K]() {
			return
		}
		at = last
	}
}

// cursor is at a prefix of a part, or behind them all.
type cursor[K Key] struct {
	first, last K
	rest        []netip.Prefix
	over        bool
}

func (c *cursor[K]) next() {
	for len(c.rest) > 0 {
		p := c.rest[0]
		c.rest = c.rest[1:]
		if Fits(p) {
			c.first, c.last = span[K](p)
			return
		}
	}
	c.over = true
}

// skip goes to the first prefix that ends at a key or behind it.
func (c *cursor[K]) skip(at K) {
	for !c.over && c.last < at {
		c.next()
	}
}
