package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
)

// fillBatch is how many entries are written by one system call.
const fillBatch = 4096

// makeTrie makes the trie of a family, with what groups have, those first that end last.
func (m *listMaker) makeTrie(family int, groups []ListGroup) error {
	entries := 0
	for _, g := range groups {
		entries += len(g.Prefixes)
	}
	trie, err := m.make(listTries, family, entries, 0)
	if err != nil {
		return err
	}
	for i, g := range groups {
		if i > 0 {
			if g.Prefixes, err = m.lists.lacking(g.Prefixes); err != nil {
				return err
			}
		}
		value := abi.DatapathListed{UntilS: secondOf(g.Ends)}
		if family == 0 {
			err = fillMap(trie, g.Prefixes, value, func(p netip.Prefix) abi.DatapathPrefix4 { return prefixKey(p).(abi.DatapathPrefix4) })
		} else {
			err = fillMap(trie, g.Prefixes, value, func(p netip.Prefix) abi.DatapathPrefix6 { return prefixKey(p).(abi.DatapathPrefix6) })
		}
		if err != nil {
			return fmt.Errorf("write to map %s: %w", listMapKinds[listTries].declared[family], err)
		}
	}
	return nil
}

// secondOf is the second before a list ends, never too late; 0: it does not.
func secondOf(ends time.Duration) uint32 {
	if ends == 0 {
		return 0
	}
	return uint32(max(1, ends/time.Second))
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

// lacking returns the prefixes that no entry of a trie covers.
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

// lookup returns the longest entry of a trie that covers a prefix.
func (l *Lists) lookup(p netip.Prefix) (value abi.DatapathListed, found bool, err error) {
	family := familyOf(p)
	err = l.maps[listTries][family].Lookup(prefixKey(p), &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	if err != nil {
		return value, false, fmt.Errorf("look %s up in map %s: %w", p, listMapKinds[listTries].declared[family], err)
	}
	return value, true, nil
}
