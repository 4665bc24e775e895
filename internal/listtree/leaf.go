package listtree

import (
	"math/bits"
	"unsafe"

	"github.com/torbpf/torbpf/internal/abi"
)

// keys are 1<<bits keys from first on.
type keys[K Key] struct {
	first K
	bits  int
}

func (r keys[K]) last() K { return r.first + K(uint64(1)<<r.bits-1) }

// code is what a leaf of a base has of a range.
func (r keys[K]) code(base K) uint64 { return 2*uint64(r.first-base) + 1<<r.bits }

// rangeOf is the range of a code.
func rangeOf[K Key](base K, code uint64) keys[K] {
	size := code & -code
	return keys[K]{base + K((code-size)/2), bits.TrailingZeros64(size)}
}

// form says how leaves hold ranges.
type form struct {
	ranges int // of a leaf
	inWord int // codes; 0: a leaf is abi.DatapathListLeaf6
	bits   int // of the room for a code, of which one is free
}

// Forms of leaves.
var (
	near4 = form4(abi.DatapathLimitLIST_NEAR_BITS4, 3)
	wide4 = form4(abi.DatapathLimitLIST_WIDE_BITS4, 2)
	only6 = form{ranges: int(abi.DatapathLimitLIST_LEAF6)}
)

func form4(bits abi.DatapathLimit, inWord int) form {
	return form{inWord * int(abi.DatapathLimitLIST_CODES4), inWord, int(bits)}
}

// formsOf are those that a tree may have.
func formsOf[K Key]() []form {
	if is6[K]() {
		return []form{only6}
	}
	return []form{near4, wide4}
}

func (f form) hasCodes() bool { return f.inWord > 0 }

// largest is how many bits the keys of the largest range differ in: eight of those have room in a leaf.
func (f form) largest() int {
	if f.hasCodes() {
		return f.bits - 5
	}
	return keyBits6
}

// fits says whether there is room for a code.
func (f form) fits(code uint64) bool { return !f.hasCodes() || code>>(f.bits-1) == 0 }

// view is memory as the leaf that it is.
func view[L any, K Key](words []K) *L { return (*L)(unsafe.Pointer(unsafe.SliceData(words))) }

// put writes a range into a leaf of zeros.
func put[K Key](f form, words []K, at int, base K, r keys[K]) {
	if !f.hasCodes() {
		l := view[abi.DatapathListLeaf6](words)
		l.First[at], l.Bits[at] = uint64(r.first), uint8(r.bits)
		return
	}
	l := view[abi.DatapathListLeaf4](words)
	l.Base = uint64(base)
	l.Codes[at/f.inWord] |= r.code(base) << (at % f.inWord * f.bits)
}

// get reads a range of a leaf.
func get[K Key](f form, words []K, at int) keys[K] {
	if !f.hasCodes() {
		l := view[abi.DatapathListLeaf6](words)
		return keys[K]{K(l.First[at]), int(l.Bits[at])}
	}
	l := view[abi.DatapathListLeaf4](words)
	return rangeOf(K(l.Base), l.Codes[at/f.inWord]>>(at%f.inWord*f.bits)&(1<<f.bits-1))
}

// packer parts ranges, which it is given in order, into leaves.
type packer[K Key] struct {
	form
	// take is called with what each leaf is to have.
	take   func(base K, ranges []lasting[K])
	ranges []lasting[K]
	bits   int // of the largest of them
}

// lasting is a range, and until when lists have it.
type lasting[K Key] struct {
	keys[K]
	ends uint32
}

func (p *packer[K]) add(r lasting[K]) {
	if over := r.bits - p.largest(); over > 0 {
		r.bits -= over
		for range uint64(1) << over {
			p.add(r)
			r.first += K(uint64(1) << r.bits)
		}
		return
	}
	bits := max(p.bits, r.bits)
	if len(p.ranges) == p.form.ranges || len(p.ranges) > 0 && !p.fits(r.code(p.base(bits))) {
		p.flush()
		bits = r.bits
	}
	p.ranges, p.bits = append(p.ranges, r), bits
}

// base is that of a leaf whose largest range has so many bits: what is a multiple of a range's
// size must stay one less the base.
func (p *packer[K]) base(bits int) K {
	return p.ranges[0].first >> bits << bits
}

// flush ends a leaf.
func (p *packer[K]) flush() {
	if len(p.ranges) > 0 {
		p.take(p.base(p.bits), p.ranges)
	}
	p.ranges, p.bits = p.ranges[:0], 0
}
