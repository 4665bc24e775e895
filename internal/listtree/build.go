package listtree

import (
	"cmp"
	"errors"
	"math/bits"
	"net/netip"
	"slices"
)

// Part is what lists hold together that end at one time.
type Part struct {
	Ends     uint32         // second since boot, or ForEver
	Prefixes []netip.Prefix // of one family, sorted, none covered by another; those that do not fit are passed over
}

// Plan is a tree that is still to be written.
type Plan[K Key] struct {
	parts []Part // what ends last first
	shape Shape
	nodes int
}

// ErrTooMany says that there are more ranges than a tree can have.
var ErrTooMany = errors.New("more prefixes than a tree can have")

// NewPlan counts what the tree of these parts needs. They must not change until it is written.
// beside says that there are lists in the trie as well.
func NewPlan[K Key](parts []Part, beside bool) (*Plan[K], error) {
	p := &Plan[K]{parts: slices.Clone(parts)}
	slices.SortFunc(p.parts, func(a, b Part) int { return cmp.Compare(b.Ends, a.Ends) })
	ranges, lives := 0, false
	p.each(func(_ K, _ int, ends uint32) {
		ranges++
		lives = lives || ends != ForEver
	})
	var ok bool
	if p.shape, p.nodes, ok = shapeOf[K](ranges); !ok {
		return nil, ErrTooMany
	}
	p.shape.Lives, p.shape.Trie = flag(lives), flag(beside)
	return p, nil
}

func flag(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

// Nodes is how many nodes there are.
func (p *Plan[K]) Nodes() int { return p.nodes }

// Ends is how many deadlines there are.
func (p *Plan[K]) Ends() int {
	if p.shape.Lives == 0 {
		return 0
	}
	return p.leaves() * leafRanges[K]()
}

func (p *Plan[K]) leaves() int { return p.nodes - int(p.shape.Leaves) }

// Write fills a tree that has as many nodes and deadlines.
func (p *Plan[K]) Write(t Tree[K]) {
	*t.Shape() = p.shape
	written := 0
	put := func(first K, size int, ends uint32) {
		l, at := t.leaf(written/leafRanges[K]()), written%leafRanges[K]()
		l.first[at], l.bits[at] = first, byte(size)
		if p.shape.Lives != 0 {
			t.Ends[written] = ends
		}
		written++
	}
	var first K
	var size int
	var ends uint32
	p.each(func(f K, s int, e uint32) {
		first, size, ends = f, s, e
		put(first, size, ends)
	})
	if written == 0 {
		return
	}
	for written < p.leaves()*leafRanges[K]() {
		put(first, size, ends)
	}
	p.writeBranches(t)
}

// writeBranches fills the levels above the leaves.
func (p *Plan[K]) writeBranches(t Tree[K]) {
	stride := 1 // leaves below a child
	for level := int(p.shape.Levels) - 1; level >= 0; level-- {
		end := p.shape.Leaves
		if level+1 < int(p.shape.Levels) {
			end = p.shape.Begins[level+1]
		}
		for n := range int(end - p.shape.Begins[level]) {
			node := t.node(int(p.shape.Begins[level]) + n)
			for i := range node {
				node[i] = highest[K]()
				if next := (n*branches[K]() + i + 1) * stride; next < p.leaves() {
					node[i] = t.leaf(next).first[0] - 1
				}
			}
		}
		stride *= branches[K]()
	}
}

// each calls take with every range in order: 1<<size keys from first on, and until when they
// are listed. Of parts that have the same address the one that ends last counts.
func (p *Plan[K]) each(take func(first K, size int, ends uint32)) {
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

// split cuts what is listed into ranges of powers of two, of which there are never more than
// prefixes of the same.
func split[K Key](first, last K, ends uint32, take func(first K, size int, ends uint32)) {
	if ends == Unlisted {
		return
	}
	for left := uint64(last-first) + 1; left > 0; {
		size := bits.Len64(left) - 1
		take(first, size, ends)
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
