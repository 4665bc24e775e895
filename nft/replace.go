package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/torbpf/torbpf/internal/plan"
)

// state is what the kernel has by the name of our table.
type state struct {
	table    *nftables.Table // nil if there is none
	chains   []*nftables.Chain
	sets     []*nftables.Set
	counters []string
	// sound says that what is to outlive the rest can stay in place.
	sound bool
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
// generation in which its old state was read: else it would undo that.
func (rs *ruleset) write(conn *nftables.Conn, old state, generation uint32) error {
	rs.queueRemoval(conn, old)
	if err := rs.queue(conn, old); err != nil {
		return fmt.Errorf("write the ruleset of table inet %s: %w", plan.Table, err)
	}
	if err := conn.FlushWithGenID(generation); err != nil {
		return fmt.Errorf("replace table inet %s: %w", plan.Table, err)
	}
	return nil
}

func (rs *ruleset) readState(conn *nftables.Conn) (state, error) {
	t, err := findTable(conn)
	if err != nil || t == nil {
		return state{}, err
	}
	old := state{table: t}
	if old.chains, err = listChains(conn); err != nil {
		return state{}, err
	}
	sets, err := conn.GetSets(t)
	if err != nil {
		return state{}, fmt.Errorf("list sets of table inet %s: %w", plan.Table, err)
	}
	old.sets = sets
	counters, others, err := readObjects(conn)
	if err != nil {
		return state{}, err
	}
	for name := range counters {
		old.counters = append(old.counters, name)
	}
	old.sound = t.Flags == rs.table.Flags && others == 0 && rs.fits(sets)
	return old, nil
}

// fits reports whether sets that are to stay are as this version makes them.
func (rs *ruleset) fits(live []*nftables.Set) bool {
	for _, have := range live {
		if want := rs.lasting(have.Name); want != nil && !sameKind(want, have) {
			return false
		}
	}
	return true
}

// lasting returns the set of that name if its elements outlive a replacement.
func (rs *ruleset) lasting(name string) *nftables.Set {
	for _, s := range rs.sets {
		if s.Name == name && s.HasTimeout {
			return s.Set
		}
	}
	return nil
}

// queueRemoval deletes everything that is to be made anew. The cut-off peers
// stay in the kernel: one that is listed and written back may get lost, since
// the kernel rearranges a large set while it is listed. Nothing is deleted
// that is not there: others would be shown an empty table meanwhile.
func (rs *ruleset) queueRemoval(conn *nftables.Conn, old state) {
	if old.table == nil {
		return
	}
	if !old.sound {
		conn.DelTable(old.table)
		return
	}
	conn.FlushTable(old.table)
	for _, s := range old.sets {
		// Rules have lost their own, unnamed sets with the flush.
		if s.Anonymous || rs.lasting(s.Name) != nil {
			continue
		}
		conn.FlushSet(s) // or older kernels hold on to the chains that a map leads to
		conn.DelSet(s)
	}
	for _, c := range old.chains {
		conn.DelChain(c)
	}
	for _, name := range old.counters {
		if !slices.Contains(rs.counters, name) {
			conn.DeleteObject(counterObject(old.table, name))
		}
	}
}

// queue adds what is missing then.
func (rs *ruleset) queue(conn *nftables.Conn, old state) error {
	conn.AddTable(rs.table)
	for _, name := range rs.counters {
		if !old.sound || !slices.Contains(old.counters, name) {
			conn.AddObj(counterObject(rs.table, name))
		}
	}
	// Chains come before the maps that lead to them, rules after the sets.
	for _, c := range rs.chains {
		conn.AddChain(c.Chain)
	}
	for _, s := range rs.sets {
		if old.sound && s.HasTimeout && old.hasSet(s.Name) {
			continue
		}
		// A set is numbered within its batch, so each batch gets a copy.
		fresh := *s.Set
		if err := conn.AddSet(&fresh, s.elements); err != nil {
			return fmt.Errorf("add set %s: %w", s.Name, err)
		}
	}
	for _, c := range rs.chains {
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: rs.table, Chain: c.Chain, Exprs: r.exprs, UserData: r.userData()})
		}
	}
	return nil
}

func (old state) hasSet(name string) bool {
	return slices.ContainsFunc(old.sets, func(s *nftables.Set) bool { return s.Name == name })
}

func counterObject(t *nftables.Table, name string) *nftables.NamedObj {
	return &nftables.NamedObj{Table: t, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

// listChains returns the chains of our table.
func listChains(conn *nftables.Conn) ([]*nftables.Chain, error) {
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != plan.Table }), nil
}
