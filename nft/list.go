package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// findTable returns our table as the kernel has it, nil if there is none.
func findTable(conn *nftables.Conn) (*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		// The question has nothing that could be invalid but nf_tables itself.
		return nil, fmt.Errorf("list nftables tables: %w", explain(err, unix.EINVAL))
	}
	for _, t := range tables {
		if t.Name == plan.Table {
			return t, nil
		}
	}
	return nil, nil
}

// listChains returns the chains of our table by name.
func listChains(conn *nftables.Conn) (map[string]*nftables.Chain, error) {
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	chains := make(map[string]*nftables.Chain)
	for _, c := range all {
		if c.Table.Name == plan.Table {
			chains[c.Name] = c
		}
	}
	return chains, nil
}

// listSets returns the sets and maps of our table by name.
func listSets(conn *nftables.Conn) (map[string]*nftables.Set, error) {
	all, err := conn.GetSets(table())
	if err != nil {
		return nil, fmt.Errorf("list sets of table inet %s: %w", plan.Table, err)
	}
	sets := make(map[string]*nftables.Set)
	for _, s := range all {
		sets[s.Name] = s
	}
	return sets, nil
}

// listObjects returns the counters and other objects of our table by name.
func listObjects(conn *nftables.Conn) (map[string]*nftables.NamedObj, error) {
	all, err := conn.GetNamedObjects(table())
	if err != nil {
		return nil, fmt.Errorf("list objects of table inet %s: %w", plan.Table, err)
	}
	objects := make(map[string]*nftables.NamedObj)
	for _, o := range all {
		named, ok := o.(*nftables.NamedObj)
		if !ok {
			return nil, fmt.Errorf("list objects of table inet %s: one of an unknown type: %T", plan.Table, o)
		}
		objects[named.Name] = named
	}
	return objects, nil
}

// sameHook compares what cannot be changed of a chain that exists.
func sameHook(a, b *nftables.Chain) bool {
	return a.Type == b.Type && equalOrNil(a.Hooknum, b.Hooknum) && equalOrNil(a.Priority, b.Priority)
}

func equalOrNil[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// sameKind compares what cannot be changed of a set that exists.
func sameKind(a, b *nftables.Set) bool {
	return a.KeyType == b.KeyType && a.IsMap == b.IsMap && a.Interval == b.Interval &&
		a.HasTimeout == b.HasTimeout && a.Timeout == b.Timeout && a.Size == b.Size
}

// compare lists a live set. Elements with a timeout come and go by themselves.
func (s set) compare(conn *nftables.Conn, live *nftables.Set) (changes, error) {
	var change changes
	if s.HasTimeout && s.keeps == nil { // what is there is there for its time
		return changes{missing: s.elements}, nil
	}
	elements, err := conn.GetSetElements(live)
	if err != nil {
		return change, fmt.Errorf("list elements of set %s: %w", s.Name, err)
	}
	if s.Interval && !s.Concatenation {
		return compareIntervals(s.elements, elements), nil
	}
	have := make(map[string]nftables.SetElement)
	for _, e := range elements {
		if s.DataType == nftables.TypeVerdict {
			if e.VerdictData, err = decodeVerdict(e.Val); err != nil {
				return change, fmt.Errorf("list elements of set %s: %w", s.Name, err)
			}
			e.Val = nil
		}
		if s.keeps != nil && s.keeps(e.Key) {
			continue
		}
		have[identify(e)] = nftables.SetElement{Key: e.Key, KeyEnd: e.KeyEnd}
	}
	for _, e := range s.elements {
		if s.HasTimeout { // its time begins anew
			change.missing = append(change.missing, e)
			continue
		}
		id := identify(e)
		if _, ok := have[id]; !ok {
			change.missing = append(change.missing, e)
		}
		delete(have, id)
	}
	for _, e := range have {
		change.stale = append(change.stale, e)
	}
	return change, nil
}

// identify tells elements apart by all that we set of them.
func identify(e nftables.SetElement) string {
	return fmt.Sprintf("%x-%x %x %v", e.Key, e.KeyEnd, e.Val, e.VerdictData)
}

// decodeVerdict reads the value of an element of a map of verdicts, which the library leaves
// as netlink attributes; nil for an element without one.
func decodeVerdict(data []byte) (*expr.Verdict, error) {
	if len(data) == 0 {
		return nil, nil
	}
	decoder, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil, fmt.Errorf("decode a verdict: %w", err)
	}
	var v expr.Verdict
	for decoder.Next() {
		switch decoder.Type() {
		case unix.NFTA_VERDICT_CODE:
			code := decoder.Bytes()
			if len(code) != 4 {
				return nil, errors.New("decode a verdict: its code is not 32 bits")
			}
			v.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(code)))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = decoder.String()
		}
	}
	if err := decoder.Err(); err != nil {
		return nil, fmt.Errorf("decode a verdict: %w", err)
	}
	return &v, nil
}
