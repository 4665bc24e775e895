package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// apart is what nobody outside has of either family: prefixes that leave it out leave nothing
// of the internet to Tor all the same. Of IPv6 only 2000::/3 is in use (RFC 4291, 2.4).
var apart = prefixes("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/3", "4000::/2", "8000::/1")

// families are all addresses of each.
var families = prefixes("0.0.0.0/0", "::/0")

// Everything says whether rules let everything out, alone or together.
func (rs Rules) Everything() bool { return len(rs.Widest()) > 0 }

// Widest are the rules which together let every address of a family out, at whatever time
// each of them ends: the other ones may have gone before anybody looks again. Or it is the one
// for the control group that all of this machine runs in.
func (rs Rules) Widest() Rules {
	layers := rs.Layers()
	root := func(r Rule) bool { return r.Kind == KindCgroup && r.Cgroup == "/" && r.Policy == PolicyDirect }
	if i := slices.IndexFunc(layers, root); i >= 0 {
		return layers[i : i+1]
	}
	for _, client := range []bool{false, true} {
		for _, kind := range []Kind{KindDestination, KindSource} {
			direct := slices.DeleteFunc(slices.Clone(layers), func(r Rule) bool {
				return r.Kind != kind || r.Client != client || r.Policy != PolicyDirect
			})
			for _, family := range families {
				if found := direct.covering(family); len(found) > 0 {
					return found
				}
			}
		}
	}
	return nil
}

// covering are those of the rules that cover a family together, the widest of them; none if
// they leave something of it.
func (rs Rules) covering(family netip.Prefix) Rules {
	var within Rules
	for _, r := range rs {
		if !r.Prefix.IsValid() || r.Prefix.Addr().Is4() != family.Addr().Is4() {
			continue
		}
		if r.Prefix.Bits() == 0 {
			return Rules{r}
		}
		within = append(within, r)
	}
	if !covered(family, within) {
		return nil
	}
	return within
}

func covered(p netip.Prefix, by Rules) bool {
	switch {
	case slices.ContainsFunc(by, func(r Rule) bool { return PrefixCovers(r.Prefix, p) }),
		slices.ContainsFunc(apart, func(a netip.Prefix) bool { return PrefixCovers(a, p) }):
		return true
	case !slices.ContainsFunc(by, func(r Rule) bool { return r.Prefix.Overlaps(p) }):
		return false
	}
	lower, upper := Halves(p)
	return covered(lower, by) && covered(upper, by)
}

// widestShown is how many of the rules that cover a family are told.
const widestShown = 4

// Together lists the prefixes of rules in words.
func (rs Rules) Together() string {
	words := make([]string, 0, len(rs))
	for i, r := range rs {
		if i == widestShown {
			words = append(words, fmt.Sprintf("%d more", len(rs)-i))
			break
		}
		words = append(words, r.String())
	}
	text := strings.Join(words, ", ")
	if len(rs) > 1 {
		text += " together"
	}
	return text
}

// everything refuses rules that leave nothing to Tor.
func (v *validation) everything(c Config) {
	widest := c.Rules.Widest()
	if len(widest) == 0 || c.Everything {
		return
	}
	last := widest[len(widest)-1]
	next := "or insist with --force"
	if last.Origin != "" && !last.Runtime {
		next = "no file may ask for that"
	}
	what := widest.Together()
	if last.Kind == KindCgroup {
		what = last.Of()
	}
	v.add(last.field(), "%s would let everything past Tor: torbpf detach switches Tor off; %s", what, next)
}
