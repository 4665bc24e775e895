package config

import (
	"math"
	"slices"
	"time"
)

// over is a rule that takes the place of another for the same entry. If it ends and says
// otherwise, what would have held longer holds again then.
func (r Rule) over(old Rule) Rule {
	r.Beneath = nil
	for b := &old; b != nil && !r.Until.IsZero(); b = b.Beneath {
		if b.Policy != r.Policy && b.longer(r) {
			r.Beneath = b
			break
		}
	}
	return r
}

// longer says whether a rule holds longer than another.
func (r Rule) longer(o Rule) bool { return r.outlasts(o) && !r.Until.Equal(o.Until) }

// Layers returns a rule and those beneath it, each by itself: first what holds longest.
func (r Rule) Layers() Rules {
	var out Rules
	for b := &r; b != nil; b = b.Beneath {
		layer := *b
		layer.Entry, layer.Beneath = r.Entry, nil
		out = append(out, layer)
	}
	slices.Reverse(out)
	return out
}

// Layers returns all rules by themselves; Stacked is the way back.
func (rs Rules) Layers() Rules {
	var out Rules
	for _, r := range rs {
		out = append(out, r.Layers()...)
	}
	return out
}

// Stacked puts what ends over what says otherwise of the same entry and holds longer. Of
// two that hold equally long the later one counts, of two that say the same the longer one.
func (rs Rules) Stacked() Rules {
	var out Rules
	for _, r := range rs.Layers() {
		i := out.index(r.Entry)
		if i < 0 {
			out = append(out, r)
			continue
		}
		layers := append(out[i].Layers(), r)
		slices.SortStableFunc(layers, func(a, b Rule) int {
			switch {
			case a.longer(b):
				return -1
			case b.longer(a):
				return 1
			}
			return 0
		})
		out[i] = layers[0]
		for _, layer := range layers[1:] {
			if layer.Policy != out[i].Policy || !out[i].longer(layer) {
				out[i] = layer.over(out[i])
			}
		}
	}
	return out
}

// Last writes down since boot when rules end of which only the wall clock's time is
// known, and returns them. Later steps of that clock put no end off.
func (rs Rules) Last(wall time.Time, boot time.Duration) Rules {
	out := slices.Clone(rs)
	for i, r := range out {
		if !r.Until.IsZero() && r.Ends == 0 {
			left := min(r.Until.Sub(wall), math.MaxInt64-boot) // the year 9999 is beyond what a Duration holds
			out[i].Ends = max(1, boot+left)
		}
		if r.Beneath != nil {
			out[i].Beneath = &Rules{*r.Beneath}.Last(wall, boot)[0]
		}
	}
	return out
}

// EndingAs returns rules that end when known ones of the same entry and time do, if that
// has been written down: a wall clock that was put back since puts no end off. What lets
// out may end sooner, by a clock that was put right.
func (rs Rules) EndingAs(known Rules) Rules {
	layers, was := rs.Layers(), known.Layers()
	for i, r := range layers {
		j := was.Ending(r)
		if j < 0 || was[j].Ends == 0 {
			continue
		}
		if r.Ends == 0 || r.closes() || was[j].Ends < r.Ends {
			layers[i].Ends = was[j].Ends
		}
	}
	return layers.Stacked()
}

// NamedIn returns those of rules that have ended which others name still.
func (rs Rules) NamedIn(rules Rules) Rules {
	layers := rules.Layers()
	return slices.DeleteFunc(slices.Clone(rs), func(r Rule) bool { return layers.Ending(r) < 0 })
}

// Ending finds the rule of an entry that ends at a time; -1 for none.
func (rs Rules) Ending(as Rule) int {
	return slices.IndexFunc(rs, func(r Rule) bool { return r.Entry == as.Entry && r.Until.Equal(as.Until) && !r.Until.IsZero() })
}

// Active tells the rules that hold from those that have ended, by the time since boot; one
// that lets out has ended by the wall clock, too. A machine without a clock of its own
// learns the time only after it has booted, and took the rule for a longer one before.
// Where one has ended, the one beneath it holds.
func (rs Rules) Active(wall time.Time, boot time.Duration) (active, ended Rules) {
	for _, r := range rs {
		top := &r
		for top != nil && top.ended(wall, boot) {
			over := *top
			over.Entry, over.Beneath = r.Entry, nil
			ended = append(ended, over)
			top = top.Beneath
		}
		if top != nil {
			holds := *top
			holds.Entry = r.Entry
			active = append(active, holds)
		}
	}
	return active, ended
}

func (r Rule) ended(wall time.Time, boot time.Duration) bool {
	late := r.Policy == PolicyDirect && !r.Until.IsZero() && !wall.Before(r.Until)
	return r.Ends != 0 && r.Ends <= boot || late
}

// Planned returns the rules as the programs get them. Of an entry those know what holds now
// and one policy that counts when that has ended, until somebody writes what is to be then:
// beneath a rule is the strictest of what closes there, for as long as any of it holds.
// What lets out never comes back by itself, and what is blocked stays so while anything
// beneath it closes.
func (rs Rules) Planned() Rules {
	out := slices.Clone(rs)
	for i, r := range out {
		then := r.closedBeneath()
		if then != nil && r.Policy == PolicyBlock {
			out[i].Until, out[i].Ends = time.Time{}, 0
			then = nil
		}
		out[i].Beneath = then
	}
	return out
}

// closedBeneath sums up what closes beneath a rule; nil for nothing.
func (r Rule) closedBeneath() *Rule {
	var then *Rule
	for b := r.Beneath; b != nil; b = b.Beneath { // each holds longer than the one before
		if !b.closes() {
			continue
		}
		layer := *b
		if then != nil && then.Policy == PolicyBlock {
			layer = *then
			layer.Until, layer.Ends = b.Until, b.Ends
		}
		layer.Beneath = nil
		then = &layer
	}
	return then
}

func (r Rule) closes() bool { return r.Policy != PolicyDirect }
