package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Sort is what rows are sorted by.
type Sort int

// ByName sorts by name, upwards; all others sort by a rate, the highest first: ByFate by that of
// a column, ByAll by that of all of them.
const (
	ByAll Sort = iota - 2
	ByName
	ByFate // and on, as fates are
)

// sortNames are what sorts are called.
func sortNames() []string { return append([]string{"all", "name"}, fates[:]...) }

// ParseSort reads the name of a sort.
func ParseSort(name string) (Sort, error) {
	i := slices.Index(sortNames(), name)
	if i < 0 {
		return 0, fmt.Errorf("%q is nothing to sort by: %s", name, strings.Join(sortNames(), ", "))
	}
	return ByAll + Sort(i), nil
}

// String is its name.
func (s Sort) String() string { return sortNames()[s-ByAll] }

// SortNames are the names that ParseSort reads.
func SortNames() []string { return sortNames() }

// order is how rows are sorted.
type order struct {
	by      Sort
	packets bool // by packets instead of bits
	reverse bool
}

// sorted puts rows in order; those that are equal by name and ID, so that they stay where they are.
func (o order) sorted(rows []Row) []Row {
	out := slices.Clone(rows)
	slices.SortFunc(out, func(a, b Row) int {
		c := 0
		switch o.by {
		case ByName:
		case ByAll:
			c = cmp.Compare(o.measure(b.total()), o.measure(a.total()))
		default:
			c = cmp.Compare(o.measure(b.Rate[o.by]), o.measure(a.Rate[o.by]))
		}
		c = cmp.Or(c, compareNames(a, b))
		if o.reverse {
			c = -c
		}
		return c
	})
	return out
}

func (o order) measure(r Rate) float64 {
	if o.packets {
		return r.Packets
	}
	return r.Bits
}

// compareNames puts those that have a name before those that have none.
func compareNames(a, b Row) int {
	nameless := func(r Row) int {
		if r.Name == "" {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(nameless(a), nameless(b)),
		cmp.Compare(strings.ToLower(a.label()), strings.ToLower(b.label())), cmp.Compare(a.ID, b.ID))
}

// matches tells whether a filter is found in any of some texts, whatever letters are capital.
func matches(filter string, texts ...string) bool {
	return filter == "" || slices.ContainsFunc(texts, func(t string) bool {
		return strings.Contains(strings.ToLower(t), strings.ToLower(filter))
	})
}

// matches tells whether a row is what a filter is about.
func (r Row) matches(filter string) bool {
	texts := []string{r.Name, r.MAC, string(r.Policy)}
	for _, a := range r.Addrs {
		texts = append(texts, a.String())
	}
	return matches(filter, texts...)
}

// filtered keeps what a filter is about.
func filtered(rows []Row, filter string) []Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return !r.matches(filter) })
}
