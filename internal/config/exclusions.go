package config

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Kind says what of a packet an exclusion looks at.
type Kind string

// The three kinds of exclusion.
const (
	KindDestination Kind = "destination"
	KindSource      Kind = "source"
	KindMark        Kind = "mark"
)

// Entry is one exclusion: a Mark for KindMark, a Prefix for the other kinds.
type Entry struct {
	Kind   Kind
	Prefix netip.Prefix
	Mark   Mark
}

// ParseEntry reads an exclusion of a known kind, by ParsePrefix or ParseMark.
func ParseEntry(kind Kind, s string) (Entry, error) {
	var err error
	e := Entry{Kind: kind}
	switch kind {
	case KindDestination, KindSource:
		e.Prefix, err = ParsePrefix(s)
	case KindMark:
		e.Mark, err = ParseMark(s)
	default:
		err = fmt.Errorf("read exclusion %q: kind %q is none of %s, %s, %s: %w",
			s, kind, KindDestination, KindSource, KindMark, ErrInvalid)
	}
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// String writes the entry as ParseEntry reads it, without its kind.
func (e Entry) String() string {
	if e.Kind == KindMark {
		return e.Mark.String()
	}
	return e.Prefix.String()
}

// covers says whether every packet that o excludes is excluded by e.
func (e Entry) covers(o Entry) bool {
	if e.Kind != o.Kind {
		return false
	}
	if e.Kind == KindMark {
		return e.Mark.covers(o.Mark)
	}
	return PrefixCovers(e.Prefix, o.Prefix)
}

// distance grows as two entries of one kind have less in common.
func (e Entry) distance(o Entry) int {
	if e.Kind == KindMark {
		return bits.OnesCount32(e.Mark.Value^o.Mark.Value) + bits.OnesCount32(e.Mark.Mask^o.Mark.Mask)
	}
	if e.Prefix.Addr().Is4() != o.Prefix.Addr().Is4() {
		return 256
	}
	a, b := e.Prefix.Addr().AsSlice(), o.Prefix.Addr().AsSlice()
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return (len(a)-i)*8 - bits.LeadingZeros8(x)
		}
	}
	return 0
}

// Outcome is what Add or Remove did.
type Outcome string

// The outcomes. Only Added and Removed changed anything.
const (
	Added   Outcome = "added"
	Present Outcome = "present" // Add: the entry itself was there already
	Covered Outcome = "covered" // Add: CoveredBy lets these packets out already
	Removed Outcome = "removed"
	Absent  Outcome = "absent" // Remove: no such entry; see CoveredBy and Near
)

// Change tells what became of one Add or Remove.
type Change struct {
	Entry     Entry
	Outcome   Outcome
	CoveredBy []Entry // wider entries that let these packets out still
	Absorbed  []Entry // Added: narrower entries that this one replaced
	Near      []Entry // Absent: the entries most like it, closest first, at most three
}

// String tells the change in one line, with the next step where there is one.
func (c Change) String() string {
	switch c.Outcome {
	case Added:
		if len(c.Absorbed) > 0 {
			return fmt.Sprintf("added %s %s, which absorbed %s", c.Entry.Kind, c.Entry, list(c.Absorbed))
		}
		return fmt.Sprintf("added %s %s", c.Entry.Kind, c.Entry)
	case Present:
		return fmt.Sprintf("%s %s is excluded already", c.Entry.Kind, c.Entry)
	case Covered:
		return fmt.Sprintf("%s %s is excluded already, covered by %s", c.Entry.Kind, c.Entry, list(c.CoveredBy))
	case Removed:
		return fmt.Sprintf("removed %s %s", c.Entry.Kind, c.Entry)
	}
	text := fmt.Sprintf("%s %s is not in the list", c.Entry.Kind, c.Entry)
	switch {
	case len(c.CoveredBy) > 0:
		return text + fmt.Sprintf(", but %s covers it and still lets it out: delete that and add the parts to keep", list(c.CoveredBy))
	case len(c.Near) > 0:
		return text + ": nearest are " + list(c.Near)
	}
	return text + fmt.Sprintf(", which has no %s", c.Entry.Kind)
}

func list(entries []Entry) string {
	words := make([]string, 0, len(entries))
	for _, e := range entries {
		words = append(words, e.String())
	}
	return strings.Join(words, ", ")
}

// Add excludes one more entry and keeps the list normalized: a covered entry
// is not added, covered older ones are absorbed. Removing the entry later does
// not bring those back: what is not listed goes through Tor.
func (e *Exclusions) Add(entry Entry) Change {
	entry.Prefix = entry.Prefix.Masked()
	*e = e.Normalized()
	c := Change{Entry: entry, Outcome: Added}
	for _, old := range e.entries(entry.Kind) {
		switch {
		case old == entry:
			c.Outcome = Present
			return c
		case old.covers(entry):
			c.Outcome = Covered
			c.CoveredBy = append(c.CoveredBy, old)
		case entry.covers(old):
			c.Absorbed = append(c.Absorbed, old)
		}
	}
	if c.Outcome == Added {
		e.set(entry.Kind, append(e.entries(entry.Kind), entry))
		*e = e.Normalized()
	}
	return c
}

// Remove takes one entry out. Only an entry of the list can be removed, not a
// part of one.
func (e *Exclusions) Remove(entry Entry) Change {
	entry.Prefix = entry.Prefix.Masked()
	*e = e.Normalized()
	entries := e.entries(entry.Kind)
	if i := slices.Index(entries, entry); i >= 0 {
		e.set(entry.Kind, slices.Delete(entries, i, i+1))
		return Change{Entry: entry, Outcome: Removed}
	}
	c := Change{Entry: entry, Outcome: Absent}
	for _, old := range entries {
		if old.covers(entry) {
			c.CoveredBy = append(c.CoveredBy, old)
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Compare(entry.distance(a), entry.distance(b))
	})
	c.Near = entries[:min(3, len(entries))]
	return c
}

// Everything says whether a prefix lets every address of its family out.
func (e *Exclusions) Everything() bool {
	all := func(p netip.Prefix) bool { return p.Bits() == 0 }
	return slices.ContainsFunc(e.Destinations, all) || slices.ContainsFunc(e.Sources, all)
}

// entries returns a fresh list of one kind.
func (e *Exclusions) entries(kind Kind) []Entry {
	var out []Entry
	switch kind {
	case KindDestination:
		for _, p := range e.Destinations {
			out = append(out, Entry{Kind: kind, Prefix: p})
		}
	case KindSource:
		for _, p := range e.Sources {
			out = append(out, Entry{Kind: kind, Prefix: p})
		}
	case KindMark:
		for _, m := range e.Marks {
			out = append(out, Entry{Kind: kind, Mark: m})
		}
	}
	return out
}

// set replaces the list of one kind.
func (e *Exclusions) set(kind Kind, entries []Entry) {
	var prefixes []netip.Prefix
	var marks []Mark
	for _, entry := range entries {
		prefixes = append(prefixes, entry.Prefix)
		marks = append(marks, entry.Mark)
	}
	switch kind {
	case KindDestination:
		e.Destinations = prefixes
	case KindSource:
		e.Sources = prefixes
	case KindMark:
		e.Marks = marks
	}
}
