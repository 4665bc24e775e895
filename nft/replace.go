package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/torbpf/torbpf/internal/plan"
)

// A transaction is atomic within one pass through one base chain, and only as
// to rules. A rule that is still in force misses an element which has just been
// deleted: with its set flushed, a LAN is none, and its packets pass. Of a chain
// that is deleted and added anew, a packet can meet the new one too early and
// the old one too late. So chains and sets stay, rules are replaced inside them,
// and of elements only those are touched that change. The cut-off peers are not
// even listed: the kernel rearranges a large set under a listing, and what is
// written back would lack some.

// state is what the kernel has by the name of our table.
type state struct {
	table   *nftables.Table // nil if there is none
	chains  map[string]*nftables.Chain
	sets    map[string]*nftables.Set
	changes map[string]changes // of sets that stay
	objects map[string]*nftables.NamedObj

	flowtables []*nftables.Flowtable
}

// changes leads from the elements of a live set to those it should have.
type changes struct {
	stale, missing []nftables.SetElement
}

// replace is one attempt: ERESTART says that what it read was out of date when
// it wrote.
func (rs *ruleset) replace(conn *nftables.Conn) error {
	var old state
	generation, err := readUnchanged(conn, func() (err error) {
		old, err = rs.readState(conn)
		return err
	})
	if err != nil {
		return err
	}
	return rs.write(conn, old, generation)
}

// write replaces the table, provided that nobody changed nftables since the
// generation in which its old state was read.
func (rs *ruleset) write(conn *nftables.Conn, old state, generation uint32) error {
	if old.table != nil && old.table.Flags != rs.table.Flags {
		conn.DelTable(old.table) // it slept, so nothing can be lost
		old = state{}
	}
	conn.AddTable(rs.table)
	if err := rs.queueRemoval(conn, old); err != nil {
		return fmt.Errorf("clear table inet %s: %w", plan.Table, err)
	}
	if err := rs.queue(conn, old); err != nil {
		return fmt.Errorf("write the ruleset of table inet %s: %w", plan.Table, err)
	}
	if err := conn.FlushWithGenID(generation); err != nil {
		return fmt.Errorf("replace table inet %s: %w", plan.Table, explainWrite(err))
	}
	return nil
}

func (rs *ruleset) readState(conn *nftables.Conn) (state, error) {
	old := state{changes: make(map[string]changes)}
	var err error
	if old.table, err = findTable(conn); err != nil || old.table == nil {
		return old, err
	}
	if old.chains, err = listChains(conn); err != nil {
		return old, err
	}
	if old.objects, err = listObjects(conn); err != nil {
		return old, err
	}
	if old.flowtables, err = flowtablesOf(conn, old.table); err != nil {
		return old, err
	}
	if old.sets, err = listSets(conn); err != nil {
		return old, err
	}
	for _, s := range rs.sets {
		live := old.sets[s.Name]
		if live == nil || !sameKind(s.Set, live) {
			continue
		}
		if old.changes[s.Name], err = s.compare(conn, live); err != nil {
			return old, err
		}
	}
	return old, nil
}

// queueRemoval deletes the rules and all that is not to stay.
func (rs *ruleset) queueRemoval(conn *nftables.Conn, old state) error {
	if old.table == nil {
		return nil
	}
	conn.FlushTable(old.table)
	for name, s := range old.sets {
		change, stays := old.changes[name]
		switch {
		case s.Anonymous: // went with its rule
		case stays && len(change.stale) > 0:
			if err := conn.SetDeleteElements(s, change.stale); err != nil {
				return fmt.Errorf("delete elements of set %s: %w", name, err)
			}
		case !stays && s.IsMap:
			// Older kernels hold on to the chains it leads to otherwise. A class
			// that is missed now is dropped.
			conn.FlushSet(s)
			conn.DelSet(s)
		case !stays:
			conn.DelSet(s) // not flushed: the old rules may still look into it
		}
	}
	for name, c := range old.chains {
		if want := rs.chain(name); want == nil || !sameHook(want, c) {
			conn.DelChain(c)
		}
	}
	for _, f := range old.flowtables {
		conn.DelFlowtable(f)
	}
	for _, o := range old.objects {
		if !rs.counts(o) {
			conn.DeleteObject(o)
		}
	}
	return nil
}

// queue adds the rules and what is missing; a chain that stays gets its policy.
func (rs *ruleset) queue(conn *nftables.Conn, old state) error {
	for _, name := range rs.counters {
		if o := old.objects[name]; o == nil || !rs.counts(o) {
			conn.AddObj(&nftables.NamedObj{Table: rs.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
		}
	}
	for _, f := range rs.flowtables {
		conn.AddFlowtable(f)
	}
	// Chains come before the maps that lead to them, rules after the sets.
	for _, c := range rs.chains {
		conn.AddChain(c.Chain)
	}
	for _, s := range rs.sets {
		if err := s.queue(conn, old); err != nil {
			return err
		}
	}
	for _, c := range rs.chains {
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: rs.table, Chain: c.Chain, Exprs: r.exprs, UserData: r.userData()})
		}
	}
	return nil
}

func (s set) queue(conn *nftables.Conn, old state) error {
	if change, stays := old.changes[s.Name]; stays {
		if err := conn.SetAddElements(s.Set, change.missing); err != nil {
			return fmt.Errorf("add elements to set %s: %w", s.Name, err)
		}
		return nil
	}
	// A set is numbered within its batch, so each batch gets a copy.
	fresh := *s.Set
	if err := conn.AddSet(&fresh, s.elements); err != nil {
		return fmt.Errorf("add set %s: %w", s.Name, err)
	}
	return nil
}

// chain returns the chain of that name, nil if the ruleset has none.
func (rs *ruleset) chain(name string) *nftables.Chain {
	for _, c := range rs.chains {
		if c.Name == name {
			return c.Chain
		}
	}
	return nil
}

// counts reports whether an object is one of the ruleset's counters.
func (rs *ruleset) counts(o *nftables.NamedObj) bool {
	for _, name := range rs.counters {
		if o.Name == name && o.Type == nftables.ObjTypeCounter {
			return true
		}
	}
	return false
}
