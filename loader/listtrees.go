package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/listtree"
)

// longList is how many prefixes of a family are better off in a tree. A trie of as many stays
// in a processor's caches; one of fewer takes less memory than a tree's pages.
const longList = 4096

// endsPerEntry is how many deadlines an entry of a map has.
const endsPerEntry = int(unsafe.Sizeof(abi.DatapathListEnds{}) / unsafe.Sizeof(uint32(0)))

// makeFamily makes the maps of a family, of which the groups have prefixes, those first that end last.
func makeFamily[K listtree.Key](m *listMaker, family int, groups []ListGroup) error {
	var parts []listtree.Part
	fitting := 0
	for _, g := range groups {
		ends := secondOf(g.Ends)
		if ends == 0 {
			ends = listtree.ForEver
		}
		parts = append(parts, listtree.Part{Ends: ends, Prefixes: g.Prefixes})
		for _, p := range g.Prefixes {
			if listtree.Fits(p) {
				fitting++
			}
		}
	}
	var plan *listtree.Plan[K]
	if fitting > longList {
		rest := withoutFitting(groups)
		beside := slices.ContainsFunc(rest, func(g ListGroup) bool { return len(g.Prefixes) > 0 })
		var err error
		if plan, err = listtree.NewPlan[K](parts, beside); err != nil && !errors.Is(err, listtree.ErrTooMany) {
			return err
		}
		if plan != nil {
			groups = rest
		}
	}
	return errors.Join(m.makeTrie(family, groups), makeTree(m, family, plan))
}

// withoutFitting are the groups without what a tree can have. Mostly nothing is left.
func withoutFitting(groups []ListGroup) []ListGroup {
	rest := slices.Clone(groups)
	for i := range rest {
		var left []netip.Prefix
		for _, p := range groups[i].Prefixes {
			if !listtree.Fits(p) {
				left = append(left, p)
			}
		}
		rest[i].Prefixes = left
	}
	return rest
}

// makeTree makes the maps of a tree; of none, nil, they take no memory to speak of. Nothing can be
// written to a tree once it is there.
func makeTree[K listtree.Key](m *listMaker, family int, plan *listtree.Plan[K]) error {
	if plan == nil {
		_, err := m.make(listNodes, family, 0, 0)
		_, err2 := m.make(listEnds, family, 0, 0)
		return errors.Join(err, err2)
	}
	var flags uint32
	if plan.Ends() > 0 {
		flags = unix.BPF_F_MMAPABLE
	}
	nodes, err := m.make(listNodes, family, plan.Nodes(), unix.BPF_F_MMAPABLE)
	if err != nil {
		return err
	}
	ends, err := m.make(listEnds, family, (plan.Ends()+endsPerEntry-1)/endsPerEntry, flags)
	if err != nil {
		return err
	}
	tree, memory, err := mapTree[K](nodes, ends, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	plan.Write(tree)
	if err := unmap(memory); err != nil {
		return err
	}
	if err := errors.Join(nodes.Freeze(), ends.Freeze()); err != nil {
		return fmt.Errorf("freeze the maps of a list: %w", err)
	}
	return nil
}

// mapTree maps the memory of a tree into this process.
func mapTree[K listtree.Key](nodes, ends *ebpf.Map, prot int) (tree listtree.Tree[K], memory [][]byte, err error) {
	for _, m := range []*ebpf.Map{nodes, ends} {
		if m.Flags()&unix.BPF_F_MMAPABLE == 0 {
			memory = append(memory, nil)
			continue
		}
		bytes, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries())*int(m.ValueSize()), prot, unix.MAP_SHARED)
		if err != nil {
			return tree, nil, errors.Join(fmt.Errorf("map the memory of %v: %w", m, err), unmap(memory))
		}
		memory = append(memory, bytes)
	}
	return listtree.Tree[K]{Nodes: view[K](memory[0]), Ends: view[uint32](memory[1])}, memory, nil
}

// view is memory as the words that are in it.
func view[W any](memory []byte) []W {
	var word W
	return unsafe.Slice((*W)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/int(unsafe.Sizeof(word)))
}

func unmap(memory [][]byte) error {
	var errs []error
	for _, m := range memory {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	return errors.Join(errs...)
}

// mappedTree is the tree of a family that this process reads.
type mappedTree struct {
	// find returns until when lists have the first address of a prefix, and whether the range
	// that has it has all of the prefix.
	find   func(netip.Prefix) (ends uint32, all bool)
	memory [][]byte
}

// tree returns the tree of a family; it has nothing where lists are short.
func (l *Lists) tree(family int) (*mappedTree, error) {
	if l.trees[family] == nil {
		open := openTree[uint32]
		if family == 1 {
			open = openTree[uint64]
		}
		t, err := open(l.maps[listNodes][family], l.maps[listEnds][family])
		if err != nil {
			return nil, err
		}
		l.trees[family] = t
	}
	return l.trees[family], nil
}

func openTree[K listtree.Key](nodes, ends *ebpf.Map) (*mappedTree, error) {
	tree, memory, err := mapTree[K](nodes, ends, unix.PROT_READ)
	if err != nil {
		return nil, err
	}
	return &mappedTree{find: tree.FindPrefix, memory: memory}, nil
}

func (t *mappedTree) close() error {
	if t == nil {
		return nil
	}
	return unmap(t.memory)
}
