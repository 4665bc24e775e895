package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Outcome is what Add or Remove did.
type Outcome string

// The outcomes. Only Added, Changed and Removed changed anything.
const (
	Added   Outcome = "added"
	Changed Outcome = "changed" // Add: the entry was there, with another policy or life
	Present Outcome = "present" // Add: the rule itself was there already
	Covered Outcome = "covered" // Add: CoveredBy says the same of these packets already
	Removed Outcome = "removed"
	Absent  Outcome = "absent"  // Remove: no such entry; see CoveredBy and Near
	Unsaved Outcome = "unsaved" // it was not in force, and its Origin, a file of SavedFile, has it no more
)

// Change tells what became of one Add or Remove.
type Change struct {
	Rule      Rule // the new one, or the one that was removed
	Outcome   Outcome
	CoveredBy []Rule // wider rules that say the same still
	Absorbed  []Rule // Added: narrower rules that this one replaced
	Near      []Rule // Absent: the rules most like it, closest first, at most three
	// Other is, for Absent, the rule of the same entry about this machine instead of LANs, or
	// the other way round; nil for none.
	Other *Rule
	// Longer says, of Present and Covered, that what is there stays longer than was asked for.
	Longer bool
	Before *Rule // Changed: what it was
}

// MarshalJSON says which rule it is about, and what became of it (docs/JSON.md).
func (c Change) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"kind": string(c.Rule.Kind), "entry": c.Rule.String(), "outcome": string(c.Outcome)})
}

// String tells the change in one line, with the next step where there is one.
func (c Change) String() string {
	r := c.Rule
	switch c.Outcome {
	case Added:
		text := "added " + r.Words()
		if len(c.Absorbed) > 0 {
			text += ", which absorbed " + list(c.Absorbed)
		}
		return text
	case Changed:
		return fmt.Sprintf("changed %s: it is %s, and was %s", r.Of(), r.state(), c.Before.state())
	case Present:
		return fmt.Sprintf("%s is %s already%s", r.Of(), r.Policy.state(), c.stays(r, "it"))
	case Covered:
		return fmt.Sprintf("%s is %s already, covered by %s%s", r.Of(), r.Policy.state(), list(c.CoveredBy), c.stays(c.CoveredBy[0], "that"))
	case Removed:
		return "removed " + r.Of()
	case Unsaved:
		return fmt.Sprintf("removed %s from %s: it was not in force", r.Of(), r.Origin)
	}
	text := r.Of() + " is not in the list"
	switch {
	case c.Other != nil && c.Other.Client:
		return text + fmt.Sprintf(", but %s is: say --client", c.Other.Of())
	case c.Other != nil:
		return text + fmt.Sprintf(", but %s is: leave --client out", c.Other.Of())
	case len(c.CoveredBy) > 0:
		return text + fmt.Sprintf(", but %s covers it and still lets it out: add it with --policy tor to take it out of that", list(c.CoveredBy))
	case len(c.Near) > 0:
		return text + ": nearest are " + list(c.Near)
	}
	return text + fmt.Sprintf(", which has no %s", r.Kind)
}

// stays says how long a rule holds that outlasts what was asked for.
func (c Change) stays(r Rule, what string) string {
	switch {
	case !c.Longer:
		return ""
	case r.Until.IsZero():
		return fmt.Sprintf(", for good, and stays so: remove %s first if it is to end", what)
	}
	return ", until " + r.Until.Local().Format(time.DateTime)
}

// state is what becomes of what a rule matches, and until when.
func (r Rule) state() string {
	text := r.Policy.state() + " for good"
	if !r.Until.IsZero() {
		text = r.Policy.state() + " until " + r.Until.Local().Format(time.DateTime)
	}
	if r.Beneath != nil {
		text += ", then " + string(r.Beneath.Policy) + " again"
	}
	return text
}

// Words tells a rule without what put it there.
func (r Rule) Words() string {
	text := r.Of()
	if r.Policy != PolicyDirect {
		text += " (" + string(r.Policy) + ")"
	}
	if !r.Until.IsZero() {
		text += " until " + r.Until.Local().Format(time.DateTime)
	}
	if r.Beneath != nil {
		text += ", then " + string(r.Beneath.Policy) + " again"
	}
	return text
}

// state is a policy as what a packet under it is.
func (p Policy) state() string {
	return map[Policy]string{PolicyDirect: "excluded", PolicyTor: "Tor's", PolicyBlock: "blocked"}[p]
}

func list(rules []Rule) string {
	words := make([]string, 0, len(rules))
	for _, r := range rules {
		words = append(words, r.String())
	}
	return strings.Join(words, ", ")
}

// Add takes in one more rule. One that says what a wider rule says of the same packets,
// for as long, is not added, and narrower ones that say the same are absorbed: removing
// it later does not bring those back. What is there already gets the new rule's policy
// and life; but what holds for ever is not cut short by a life, and what says otherwise and
// holds longer is kept beneath.
func (rs *Rules) Add(r Rule) Change {
	r.Prefix = r.Prefix.Masked()
	c := Change{Rule: r, Outcome: Added}
	if i := rs.index(r.Entry); i >= 0 {
		old := (*rs)[i]
		if old.Policy == r.Policy && (old.Until.IsZero() || old.Until.Equal(r.Until)) {
			return Change{Rule: old, Outcome: Present, Longer: old.longer(r)}
		}
		*rs = slices.Clone(*rs)
		(*rs)[i] = r.over(old)
		return Change{Rule: (*rs)[i], Outcome: Changed, Before: &old}
	}
	if narrowest, ok := rs.narrowest(r.Entry); ok && narrowest.Policy == r.Policy && narrowest.outlasts(r) {
		c.Outcome, c.CoveredBy, c.Longer = Covered, []Rule{narrowest}, narrowest.longer(r)
		return c
	}
	var kept Rules
	for _, old := range *rs {
		if r.covers(old.Entry) && rs.absorbs(r, old) {
			c.Absorbed = append(c.Absorbed, old)
		} else {
			kept = append(kept, old)
		}
	}
	*rs = append(kept, r)
	rs.sort()
	return c
}

// absorbs says whether a rule that covers an older one makes it needless: it must say
// the same for as long, with nothing in between that says otherwise.
func (rs Rules) absorbs(r, old Rule) bool {
	if old.Policy != r.Policy || old.Comment != "" || old.Beneath != nil || !r.outlasts(old) {
		return false
	}
	between, ok := rs.narrowest(old.Entry)
	return !ok || !r.covers(between.Entry) || between.Policy == r.Policy
}

// narrowest returns the narrowest rule that covers an entry and is not it.
func (rs Rules) narrowest(e Entry) (Rule, bool) {
	var found Rule
	ok := false
	for _, r := range rs {
		if r.Entry != e && r.covers(e) && (!ok || r.wide() < found.wide()) {
			found, ok = r, true
		}
	}
	return found, ok
}

func (rs Rules) index(e Entry) int {
	return slices.IndexFunc(rs, func(r Rule) bool { return r.Entry == e })
}

// Remove takes one rule out. Only a whole rule can be removed, not a part of one.
func (rs *Rules) Remove(e Entry) Change {
	e.Prefix = e.Prefix.Masked()
	if i := rs.index(e); i >= 0 {
		c := Change{Rule: (*rs)[i], Outcome: Removed}
		*rs = slices.Delete(slices.Clone(*rs), i, i+1)
		return c
	}
	c := Change{Rule: Direct(e), Outcome: Absent}
	other := e
	other.Client = !e.Client
	if i := rs.index(other); i >= 0 {
		c.Other = &(*rs)[i]
	}
	same := slices.DeleteFunc(rs.Of(e.Kind), func(r Rule) bool { return r.Client != e.Client })
	if r, ok := rs.narrowest(e); ok && r.Policy == PolicyDirect {
		c.CoveredBy = append(c.CoveredBy, r)
	}
	slices.SortStableFunc(same, func(a, b Rule) int { return cmp.Compare(e.distance(a.Entry), e.distance(b.Entry)) })
	c.Near = same[:min(3, len(same))]
	return c
}

// Normalized returns the rules in their order, each entry once and masked: of those that
// repeat an entry, the last counts.
func (rs Rules) Normalized() Rules {
	var out Rules
	for _, r := range rs {
		r.Prefix = r.Prefix.Masked()
		if i := out.index(r.Entry); i >= 0 {
			out[i] = r
			continue
		}
		out = append(out, r)
	}
	out.sort()
	return out
}

// sort orders rules by kind, then by what they match.
func (rs Rules) sort() {
	slices.SortStableFunc(rs, func(a, b Rule) int {
		if a.Client != b.Client {
			return map[bool]int{false: -1, true: 1}[a.Client] // those of LANs come first
		}
		return cmp.Or(
			cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)),
			cmp.Compare(a.Service.Protocol, b.Service.Protocol), cmp.Compare(a.Service.Port, b.Service.Port),
			ComparePrefixes(a.Prefix, b.Prefix), compareMarks(a.Mark, b.Mark),
			cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.List, b.List),
			cmp.Compare(a.User, b.User), cmp.Compare(a.Cgroup, b.Cgroup), cmp.Compare(a.Program, b.Program), slices.Compare(a.MAC[:], b.MAC[:]))
	})
}
