package loader

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
)

var listPrefixes = twins{abi.DatapathMapList4Prefixes, abi.DatapathMapList6Prefixes}

// Lists are the maps of the destinations that lists exclude. They take seconds to fill, so
// they are no part of a generation: one after the other may use them (UseLists), and
// others can be filled meanwhile.
//
// The maps' names in the kernel tell by their ends what the maps hold, so that a process
// which was killed between the pin of one and that of the other is noticed.
type Lists struct {
	maps [2]*ebpf.Map // by family, as listPrefixes
}

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
	sizes := sizesOf(groups)
	l := &Lists{}
	for i, name := range listPrefixes {
		of := spec.Maps[name]
		of.Name, of.MaxEntries = listName(i, key), uint32(max(1, sizes[i]))
		if l.maps[i], err = ebpf.NewMap(of); err != nil {
			return nil, errors.Join(fmt.Errorf("make map %s: %w", name, explainLoad(err)), l.Close())
		}
	}
	// What ends last first, so that nothing which ends earlier comes to lie within it.
	groups = slices.SortedFunc(slices.Values(groups), func(a, b ListGroup) int { return -cmp.Compare(lasts(a.Ends), lasts(b.Ends)) })
	for i, g := range groups {
		if i > 0 {
			if g.Prefixes, err = l.lacking(g.Prefixes); err != nil {
				return nil, errors.Join(err, l.Close())
			}
		}
		if err := l.fill(g); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// lasts makes ends comparable.
func lasts(ends time.Duration) uint64 { return uint64(ends) - 1 }

func sizesOf(groups []ListGroup) (sizes [2]int) {
	for _, g := range groups {
		n := firstOfIPv6(g.Prefixes)
		sizes[0] += n
		sizes[1] += len(g.Prefixes) - n
	}
	return sizes
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

// nameDigits are those that the kernel takes in a name.
var nameDigits = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.").WithPadding(base64.NoPadding)

// listName is the name in the kernel of a map that holds what a key stands for: 54 bits of
// its digest in each of the two.
func listName(family int, key string) string {
	const digits = 9
	sum := sha256.Sum256([]byte(key))
	return listNames[family] + nameDigits.EncodeToString(sum[16*family:])[:digits]
}

// listNames are how the names of such maps begin.
var listNames = twins{"list4_", "list6_"}

// declaredName is the name in bpf/ of a map that has a name in the kernel.
func declaredName(inKernel string) string {
	for i, begin := range listNames {
		if strings.HasPrefix(inKernel, begin) {
			return listPrefixes[i]
		}
	}
	return inKernel
}

// fillBatch is how many entries are written by one system call.
const fillBatch = 4096

// fill writes a group into the maps.
func (l *Lists) fill(g ListGroup) error {
	value := abi.DatapathListed{UntilS: uint32(g.Ends / time.Second)}
	if g.Ends != 0 {
		value.UntilS = max(1, value.UntilS) // the second before it ends: never too late
	}
	n := firstOfIPv6(g.Prefixes)
	err := fillMap(l.maps[0], g.Prefixes[:n], value, func(p netip.Prefix) abi.DatapathPrefix4 { return prefixKey(p).(abi.DatapathPrefix4) })
	if err != nil {
		return fmt.Errorf("write to map %s: %w", listPrefixes[0], err)
	}
	err = fillMap(l.maps[1], g.Prefixes[n:], value, func(p netip.Prefix) abi.DatapathPrefix6 { return prefixKey(p).(abi.DatapathPrefix6) })
	if err != nil {
		return fmt.Errorf("write to map %s: %w", listPrefixes[1], err)
	}
	return nil
}

// fillMap writes many entries by one system call where the kernel can (Linux 5.13, commit
// f56387c534f1), else each by its own.
func fillMap[K any](m *ebpf.Map, prefixes []netip.Prefix, value abi.DatapathListed, key func(netip.Prefix) K) error {
	values := slices.Repeat([]abi.DatapathListed{value}, min(fillBatch, len(prefixes)))
	batches := true
	for part := range slices.Chunk(prefixes, fillBatch) {
		keys := make([]K, 0, len(part))
		for _, p := range part {
			keys = append(keys, key(p))
		}
		if batches {
			_, err := m.BatchUpdate(keys, values[:len(keys)], nil)
			if err == nil {
				continue
			}
			if !errors.Is(err, ebpf.ErrNotSupported) {
				return err
			}
			batches = false
		}
		for _, k := range keys {
			if err := m.Put(k, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// lacking returns the prefixes that no entry covers.
func (l *Lists) lacking(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, p := range prefixes {
		_, found, err := l.lookup(p)
		if err != nil {
			return nil, err
		}
		if !found {
			out = append(out, p)
		}
	}
	return out, nil
}

// OpenLists opens those that the pinned generation uses; nil if it has none.
func (d *Datapath) OpenLists() (*Lists, error) {
	l := &Lists{}
	for i, name := range listPrefixes {
		m, err := d.openMap(name)
		if errors.Is(err, os.ErrNotExist) {
			return nil, l.Close()
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.maps[i] = m
	}
	return l, nil
}

// Holds tells whether the maps are those that NewLists has filled for a key, wholly and
// as this version of torbpf has them.
func (l *Lists) Holds(key string) (bool, error) {
	if l == nil {
		return false, nil
	}
	for i, m := range l.maps {
		info, err := m.Info()
		if err != nil {
			return false, fmt.Errorf("inspect map %s: %w", listPrefixes[i], err)
		}
		if info.Name != listName(i, key) || m.Type() != ebpf.LPMTrie || int(m.ValueSize()) != binary.Size(abi.DatapathListed{}) {
			return false, nil
		}
	}
	return true, nil
}

// Filled tells whether NewLists has made one of the maps. Those of a generation without lists
// hold nothing.
func (l *Lists) Filled() (bool, error) {
	if l == nil {
		return false, nil
	}
	for i, m := range l.maps {
		info, err := m.Info()
		if err != nil {
			return false, fmt.Errorf("inspect map %s: %w", listPrefixes[i], err)
		}
		if info.Name != listPrefixes[i] {
			return true, nil
		}
	}
	return false, nil
}

// Close lets go of the maps.
func (l *Lists) Close() error {
	if l == nil {
		return nil
	}
	for _, m := range l.maps {
		m.Close() // of none it does nothing
	}
	return nil
}

// lookup returns the longest entry that covers a prefix.
func (l *Lists) lookup(p netip.Prefix) (value abi.DatapathListed, found bool, err error) {
	i := 0
	if p.Addr().Is6() {
		i = 1
	}
	err = l.maps[i].Lookup(prefixKey(p), &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	if err != nil {
		return value, false, fmt.Errorf("look %s up in map %s: %w", p, listPrefixes[i], err)
	}
	return value, true, nil
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
	value, found, err := l.lookup(netip.PrefixFrom(a, a.BitLen()))
	return err == nil && found && (value.UntilS == 0 || time.Duration(value.UntilS)*time.Second > now)
}

// Covers tells whether the entries cover all of a prefix.
func (l *Lists) Covers(p netip.Prefix) (bool, error) {
	if l == nil {
		return false, nil
	}
	_, found, err := l.lookup(p)
	if err != nil || found || p.IsSingleIP() {
		return found, err
	}
	lower, upper := config.Halves(p)
	covers, err := l.Covers(lower)
	if err != nil || !covers {
		return false, err
	}
	return l.Covers(upper)
}

// UseLists has generations that are loaded from now on use these maps; nil: none. They
// must stay open meanwhile.
func (d *Datapath) UseLists(l *Lists) { d.lists = l }

// replaceLists puts the maps of lists among those that a new generation gets.
func (d *Datapath) replaceLists(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) error {
	if d.lists == nil {
		return nil
	}
	for i, name := range listPrefixes {
		clone, err := d.lists.maps[i].Clone()
		if err != nil {
			return fmt.Errorf("hand map %s on: %w", name, err)
		}
		maps[name] = clone
		spec.Maps[name].MaxEntries = clone.MaxEntries()
	}
	return nil
}
