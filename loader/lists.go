package loader

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
)

// listMap is what there is for lists in a map of each family.
type listMap int

const (
	listTries listMap = iota // prefixes of short lists, and what is in no tree (listtree.Fits)
	listNodes                // of the tree of a long list
	listEnds                 // when the segments of a tree end, if any does
	listMaps                 // how many there are
)

// listMapKinds have the names of such maps in bpf/, and how the names in the kernel begin of
// those that NewLists has made.
var listMapKinds = [listMaps]struct {
	declared twins
	made     twins
	is       ebpf.MapType
	value    [2]uintptr
}{
	listTries: {twins{abi.DatapathMapList4Prefixes, abi.DatapathMapList6Prefixes}, twins{"list4_", "list6_"}, ebpf.LPMTrie, [2]uintptr{unsafe.Sizeof(abi.DatapathListed{}), unsafe.Sizeof(abi.DatapathListed{})}},
	listNodes: {twins{abi.DatapathMapList4Nodes, abi.DatapathMapList6Nodes}, twins{"node4_", "node6_"}, ebpf.Array, [2]uintptr{unsafe.Sizeof(abi.DatapathListNode4{}), unsafe.Sizeof(abi.DatapathListNode6{})}},
	listEnds:  {twins{abi.DatapathMapList4Ends, abi.DatapathMapList6Ends}, twins{"ends4_", "ends6_"}, ebpf.Array, [2]uintptr{unsafe.Sizeof(abi.DatapathListEnds{}), unsafe.Sizeof(abi.DatapathListEnds{})}},
}

// Lists are the maps of the destinations that lists exclude. Long ones take a while to fill, so
// they are no part of a generation: one after the other may use them (UseLists), and
// others can be filled meanwhile.
//
// The maps' names in the kernel tell by their ends what the maps hold, so that a process
// which was killed between the pin of one and that of the next is noticed.
//
// One is not to be used by several goroutines at once.
type Lists struct {
	maps  [listMaps]familyMaps
	trees [2]*mappedTree // of maps that have been looked at
}

// familyMaps are the maps for IPv4 and IPv6, as twins are their names.
type familyMaps [2]*ebpf.Map

// ListGroup is what all lists that end at one time hold together.
type ListGroup struct {
	Prefixes []netip.Prefix // sorted, none covered by another
	Ends     time.Duration  // CLOCK_BOOTTIME, by whole seconds; 0: never
}

// NewLists fills maps that nothing uses yet. key is what Holds will say yes to. The
// caller must Close them; those that programs use stay.
func NewLists(key string, groups []ListGroup) (*Lists, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift limit on locked memory: %w", kernel.Explain(err, "a limit on locked memory that can be lifted"))
	}
	spec, err := abi.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read BPF objects: %w", err)
	}
	// What ends last first, so that nothing which ends earlier comes to lie within it.
	groups = slices.SortedFunc(slices.Values(groups), func(a, b ListGroup) int { return -cmp.Compare(lasts(a.Ends), lasts(b.Ends)) })
	m := &listMaker{spec: spec, key: key, lists: &Lists{}}
	err = errors.Join(makeFamily[uint32](m, 0, ofFamily(groups, 0)), makeFamily[uint64](m, 1, ofFamily(groups, 1)))
	if err != nil {
		return nil, errors.Join(err, m.lists.Close())
	}
	return m.lists, nil
}

// lasts makes ends comparable.
func lasts(ends time.Duration) uint64 { return uint64(ends) - 1 }

// ofFamily are the groups without what they have of the other family.
func ofFamily(groups []ListGroup, family int) []ListGroup {
	out := slices.Clone(groups)
	for i, g := range groups {
		n := firstOfIPv6(g.Prefixes)
		out[i].Prefixes = [2][]netip.Prefix{g.Prefixes[:n], g.Prefixes[n:]}[family]
	}
	return out
}

// firstOfIPv6 is the place in a sorted list at which IPv6 begins.
func firstOfIPv6(sorted []netip.Prefix) int {
	n, _ := slices.BinarySearchFunc(sorted, false, func(p netip.Prefix, _ bool) int {
		if p.Addr().Is4() {
			return -1
		}
		return 1
	})
	return n
}

// listMaker makes the maps of lists.
type listMaker struct {
	spec  *ebpf.CollectionSpec
	key   string
	lists *Lists
}

// make makes a map, with the flags of its kind and others.
func (m *listMaker) make(kind listMap, family int, entries int, flags uint32) (*ebpf.Map, error) {
	name := listMapKinds[kind].declared[family]
	of := m.spec.Maps[name].Copy()
	of.Name, of.MaxEntries, of.Flags = listName(kind, family, m.key), uint32(max(1, entries)), of.Flags|flags
	made, err := ebpf.NewMap(of)
	if err != nil {
		return nil, fmt.Errorf("make map %s: %w", name, explainLoad(err))
	}
	m.lists.maps[kind][family] = made
	return made, nil
}

// nameDigits are those that the kernel takes in a name.
var nameDigits = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.").WithPadding(base64.NoPadding)

// listName is the name in the kernel of a map that holds what a key stands for: 54 bits of
// its digest, others for each family.
func listName(kind listMap, family int, key string) string {
	const digits = 9
	sum := sha256.Sum256([]byte(key))
	return listMapKinds[kind].made[family] + nameDigits.EncodeToString(sum[16*family:])[:digits]
}

// declaredName is the name in bpf/ of a map that has a name in the kernel.
func declaredName(inKernel string) string {
	for _, kind := range listMapKinds {
		for family, begin := range kind.made {
			if strings.HasPrefix(inKernel, begin) && !isListMap(inKernel) {
				return kind.declared[family]
			}
		}
	}
	return inKernel
}

// isListMap says whether a name in bpf/ is that of a map of lists.
func isListMap(name string) bool {
	for _, kind := range listMapKinds {
		if slices.Contains(kind.declared[:], name) {
			return true
		}
	}
	return false
}

// OpenLists opens those that the pinned generation uses; nil if it has none.
func (d *Datapath) OpenLists() (*Lists, error) {
	l := &Lists{}
	for kind, of := range listMapKinds {
		for family, name := range of.declared {
			m, err := d.openMap(name)
			if errors.Is(err, os.ErrNotExist) {
				return nil, l.Close()
			}
			if err != nil {
				return nil, errors.Join(err, l.Close())
			}
			l.maps[kind][family] = m
		}
	}
	return l, nil
}

// each calls look with each of the maps and its name in the kernel until it has seen enough.
func (l *Lists) each(look func(kind listMap, family int, m *ebpf.Map, name string) (goOn bool)) error {
	for kind, maps := range l.maps {
		for family, m := range maps {
			info, err := m.Info()
			if err != nil {
				return fmt.Errorf("inspect map %s: %w", listMapKinds[kind].declared[family], err)
			}
			if !look(listMap(kind), family, m, info.Name) {
				return nil
			}
		}
	}
	return nil
}

// Holds tells whether the maps are those that NewLists has filled for a key, wholly and
// as this version of torbpf has them.
func (l *Lists) Holds(key string) (bool, error) {
	if l == nil {
		return false, nil
	}
	holds := true
	err := l.each(func(kind listMap, family int, m *ebpf.Map, name string) bool {
		of := listMapKinds[kind]
		holds = name == listName(kind, family, key) && m.Type() == of.is && m.ValueSize() == uint32(of.value[family])
		return holds
	})
	return holds && err == nil, err
}

// Filled tells whether NewLists has made one of the maps. Those of a generation without lists
// hold nothing.
func (l *Lists) Filled() (bool, error) {
	if l == nil {
		return false, nil
	}
	filled := false
	err := l.each(func(kind listMap, family int, _ *ebpf.Map, name string) bool {
		filled = name != listMapKinds[kind].declared[family]
		return !filled
	})
	return filled, err
}

// Memory is what the maps take of the kernel's memory, in bytes, as it says itself.
func (l *Lists) Memory() (bytes uint64, err error) {
	for kind, maps := range l.maps {
		for family, m := range maps {
			info, err := m.Info()
			if err != nil {
				return 0, fmt.Errorf("inspect map %s: %w", listMapKinds[kind].declared[family], err)
			}
			of, _ := info.Memlock() // nothing of an empty trie
			bytes += of
		}
	}
	return bytes, nil
}

// Close lets go of the maps.
func (l *Lists) Close() error {
	if l == nil {
		return nil
	}
	var errs []error
	for i, t := range l.trees {
		errs = append(errs, t.close())
		l.trees[i] = nil
	}
	for _, maps := range l.maps {
		for _, m := range maps {
			m.Close() // of none it does nothing
		}
	}
	return errors.Join(errs...)
}

// Has says whether a list that has not ended has an address. If that cannot be told, it
// has not.
func (l *Lists) Has(a netip.Addr) bool {
	if l == nil {
		return false
	}
	now, err := kernel.BootTime()
	if err != nil {
		return false
	}
	host := netip.PrefixFrom(a, a.BitLen())
	value, found, err := l.lookup(host)
	if err != nil {
		return false
	}
	if found && (value.UntilS == 0 || time.Duration(value.UntilS)*time.Second > now) {
		return true
	}
	tree, err := l.tree(familyOf(host))
	if err != nil {
		return false
	}
	ends, _ := tree.find(host)
	return time.Duration(ends)*time.Second > now
}

// Covers tells whether the entries cover all of a prefix.
func (l *Lists) Covers(p netip.Prefix) (bool, error) {
	if l == nil {
		return false, nil
	}
	tree, err := l.tree(familyOf(p))
	if err != nil {
		return false, err
	}
	return l.covers(tree, p)
}

func (l *Lists) covers(tree *mappedTree, p netip.Prefix) (bool, error) {
	if _, all := tree.find(p); all {
		return true, nil
	}
	_, found, err := l.lookup(p)
	if err != nil || found || p.IsSingleIP() {
		return found, err
	}
	lower, upper := config.Halves(p)
	covers, err := l.covers(tree, lower)
	if err != nil || !covers {
		return false, err
	}
	return l.covers(tree, upper)
}

func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

// UseLists has generations that are loaded from now on use these maps; nil: none. They
// must stay open meanwhile.
func (d *Datapath) UseLists(l *Lists) { d.lists = l }

// replaceLists puts the maps of lists among those that a new generation gets.
func (d *Datapath) replaceLists(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) error {
	if d.lists == nil {
		return nil
	}
	for kind, of := range listMapKinds {
		for family, name := range of.declared {
			clone, err := d.lists.maps[kind][family].Clone()
			if err != nil {
				return fmt.Errorf("hand map %s on: %w", name, err)
			}
			maps[name] = clone
			fitList(spec.Maps[name], clone)
		}
	}
	return nil
}

// fitList makes a spec that of a map of lists as it was made.
func fitList(spec *ebpf.MapSpec, m *ebpf.Map) {
	spec.MaxEntries, spec.Flags = m.MaxEntries(), m.Flags()
}
