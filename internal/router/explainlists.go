package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/lists"
	"github.com/torbpf/torbpf/internal/plan"
)

// listWords says which lists have the destination, all of those that could if none can be
// read any more.
func (x *explained) listWords() string {
	var found []string
	for _, l := range x.state.Lists {
		if !slices.Contains(x.plan.Lists, plan.List{Path: l.Path, Digest: l.Digest, Ends: l.Ends}) {
			continue // it has ended
		}
		if text := x.router.placeIn(l, x.To); text != "" {
			found = append(found, text)
		}
	}
	switch len(found) {
	case 0:
		return fmt.Sprintf("%s is in a list that is excluded (%s)", x.To, strings.Join(listPaths(x.plan.Rules), ", "))
	case 1:
		return fmt.Sprintf("%s is in the list %s", x.To, found[0])
	default:
		return fmt.Sprintf("%s is in the lists %s", x.To, strings.Join(found, " and "))
	}
}

// placeIn says where a list has an address, "" for nowhere. A file that has changed since
// is not what is in force: the copy of that tells no lines.
func (r *Router) placeIn(l ListState, addr netip.Addr) string {
	if stamp, err := lists.StampAt(l.Path); err == nil && stamp == l.Stamp {
		if place, found, err := lists.Find(l.Path, addr); err == nil {
			if !found {
				return ""
			}
			return fmt.Sprintf("%s, line %d: %s", l.Path, place.Line, place.Prefix)
		}
	}
	place, found, err := lists.Find(r.copyPath(l.Digest), addr)
	if err != nil || !found {
		return ""
	}
	return fmt.Sprintf("%s as it was read on %s: %s", l.Path, l.Read.Local().Format(time.DateTime), place.Prefix)
}
