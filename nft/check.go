package nft

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/torbpf/torbpf/internal/plan"
)

// Check compares the kernel's table with the one that Apply would make and
// returns the differences in words; none means that every chain, rule and set
// is as it should be. Cut-off peers and the counts do not matter, nor whether there is a
// flowtable: if there is, it has to be as Accelerate makes it. An error
// says that the kernel could not be asked.
func Check(p *plan.Plan) ([]string, error) {
	differences, err := check(p, false)
	if err != nil || len(differences) == 0 || !(&builder{Plan: p}).looksUp() {
		return differences, err
	}
	strict, err := check(p, true)
	if err != nil || len(strict) < len(differences) {
		return strict, err // this kernel could not have the other
	}
	return differences, nil
}

func check(p *plan.Plan, strict bool) ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	var differences []string
	_, err = readUnchanged(conn, func() error {
		flowtables, err := listFlowtables(conn)
		if err != nil {
			return err
		}
		want, err := builder{Plan: p, strict: strict, accelerates: len(flowtables) > 0}.build()
		if err != nil {
			return err
		}
		differences, err = want.compare(conn)
		return err
	})
	return differences, err
}

func (rs *ruleset) compare(conn *nftables.Conn) ([]string, error) {
	t, err := findTable(conn)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return []string{"no table inet " + plan.Table}, nil
	}
	var differences []string
	if t.Flags != rs.table.Flags {
		differences = append(differences, fmt.Sprintf("table has flags %#x", uint32(t.Flags)))
	}
	for _, compare := range []func(*nftables.Conn) ([]string, error){rs.compareCounters, rs.compareSets, rs.compareChains, rs.compareFlowtables} {
		more, err := compare(conn)
		if err != nil {
			return nil, err
		}
		differences = append(differences, more...)
	}
	return differences, nil
}

func (rs *ruleset) compareCounters(conn *nftables.Conn) ([]string, error) {
	objects, err := listObjects(conn)
	if err != nil {
		return nil, err
	}
	return compareNames("counter", rs.counters, slices.Collect(maps.Keys(objects))), nil
}

// compareNames says which names are missing and which are not ours.
func compareNames(kind string, want, have []string) []string {
	var differences []string
	for _, name := range want {
		if !slices.Contains(have, name) {
			differences = append(differences, fmt.Sprintf("%s %s is missing", kind, name))
		}
	}
	for _, name := range slices.Sorted(slices.Values(have)) {
		if !slices.Contains(want, name) {
			differences = append(differences, fmt.Sprintf("%s %s is not torbpf's", kind, name))
		}
	}
	return differences
}

func (rs *ruleset) compareChains(conn *nftables.Conn) ([]string, error) {
	have, err := listChains(conn)
	if err != nil {
		return nil, err
	}
	var names, differences []string
	for _, c := range rs.chains {
		names = append(names, c.Name)
		live, ok := have[c.Name]
		if !ok {
			continue
		}
		if !sameHook(c.Chain, live) || !equalOrNil(c.Policy, live.Policy) {
			differences = append(differences, fmt.Sprintf("chain %s has another hook, priority or policy", c.Name))
		}
		rules, err := conn.GetRules(rs.table, c.Chain)
		if err != nil {
			return nil, fmt.Errorf("list rules of chain %s: %w", c.Name, err)
		}
		more, err := c.compareRules(rules)
		if err != nil {
			return nil, err
		}
		differences = append(differences, more...)
	}
	return append(compareNames("chain", names, slices.Collect(maps.Keys(have))), differences...), nil
}

func (c chain) compareRules(have []*nftables.Rule) ([]string, error) {
	var differences []string
	if len(have) != len(c.rules) {
		differences = append(differences, fmt.Sprintf("chain %s has %d rules instead of %d", c.Name, len(have), len(c.rules)))
	}
	for i := range min(len(have), len(c.rules)) {
		want, err := encode(c.rules[i].exprs)
		if err != nil {
			return nil, err
		}
		got, err := encode(have[i].Exprs)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(want, got) || !bytes.Equal(c.rules[i].userData(), have[i].UserData) {
			differences = append(differences, fmt.Sprintf("chain %s: rule %d differs (%s)", c.Name, i+1, c.rules[i].comment))
			break // the rest would only be shifted
		}
	}
	return differences, nil
}

// encode gives expressions as they travel over netlink, without those that the library
// writes and does not read.
func encode(exprs []expr.Any) ([]byte, error) {
	var out []byte
	for _, e := range exprs {
		switch e.(type) {
		case *expr.Byteorder, *expr.Socket:
			continue
		}
		data, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
		if err != nil {
			return nil, fmt.Errorf("encode a rule: %w", err)
		}
		out = append(out, data...)
	}
	return out, nil
}

func (rs *ruleset) compareSets(conn *nftables.Conn) ([]string, error) {
	have, err := listSets(conn)
	if err != nil {
		return nil, err
	}
	var names, differences []string
	for _, s := range rs.sets {
		names = append(names, s.Name)
		live, ok := have[s.Name]
		if !ok {
			continue
		}
		if !sameKind(s.Set, live) {
			differences = append(differences, fmt.Sprintf("set %s is of another type", s.Name))
			continue
		}
		change, err := s.compare(conn, live)
		if err != nil {
			return nil, err
		}
		if len(change.stale)+len(change.missing) > 0 {
			differences = append(differences, fmt.Sprintf("set %s has other elements", s.Name))
		}
	}
	return append(compareNames("set", names, slices.Collect(maps.Keys(have))), differences...), nil
}
