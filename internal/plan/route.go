package plan

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// Prefixes shorter than these cover so much that they are default routes in
// disguise: 0.0.0.0/1 with 128.0.0.0/1, 2000::/3, or the long lists by which a
// VPN spells "everything but 10.0.0.0/8".
const (
	shortest4 = 8
	shortest6 = 16
)

// notPublic is short but leads to no public host: ULA, link-local, multicast,
// class E. Kernels before 5.11 list ff00::/8 as a unicast route of every
// interface; taking that for a default route would leave no LAN to attach.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("fc00::/7"),
	linkLocal6,
	netip.MustParsePrefix("ff00::/8"),
}

// linkLocal6 is what clients speak to the router's own IPv6 services from.
var linkLocal6 = netip.MustParsePrefix("fe80::/10")

// defaultLike says whether a route to p leads to the outside at large.
func defaultLike(p netip.Prefix) bool {
	shortest := shortest6
	if p.Addr().Is4() {
		shortest = shortest4
	}
	if p.Bits() >= shortest {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(n netip.Prefix) bool { return config.PrefixCovers(n, p) })
}

// defaultRoute returns the widest default-like route by an interface.
func (h Host) defaultRoute(index int) (Route, bool) {
	var best Route
	found := false
	for _, r := range h.Routes {
		if r.Index == index && defaultLike(r.Dst) && (!found || r.Dst.Bits() < best.Dst.Bits()) {
			best, found = r, true
		}
	}
	return best, found
}

// mainTable is the routing table that holds where no rule names another one.
const mainTable = 254

// everything returns the route by which about everything of a LAN, or of this machine itself,
// leaves, or would leave, by an interface: one of the ways that the kernel takes for it, or a
// default-like one in the main table, which holds as soon as a better one has gone. Of an
// interface that is down the kernel cannot say what it will be for, so a route of any table
// counts.
func (h Host) everything(name string, ways []Route) (Route, bool) {
	l, ok := h.LinkByName(name)
	if !ok {
		return Route{}, false
	}
	leads := func(r Route) bool { return r.Index == l.Index && defaultLike(r.Dst) }
	if i := slices.IndexFunc(ways, leads); i >= 0 {
		return ways[i], true
	}
	i := slices.IndexFunc(h.Routes, func(r Route) bool { return leads(r) && (r.Table == mainTable || l.Down) })
	if i < 0 {
		return Route{}, false
	}
	return h.Routes[i], true
}

// reached is a prefix that the host reaches by an interface of its own.
type reached struct {
	prefix netip.Prefix
	index  int
	how    string // connectedTo or routedBy
}

// How a prefix is reached, as messages say it.
const (
	connectedTo = "the subnet of"
	routedBy    = "routed by"
)

// reaches returns the subnets of the host's addresses, then the destinations
// of its routes, but for default-like ones; masked, in the host's order.
func (h Host) reaches() []reached {
	var out []reached
	for _, a := range h.Addrs {
		out = append(out, reached{a.Prefix.Masked(), a.Index, connectedTo})
	}
	for _, r := range h.Routes {
		if !defaultLike(r.Dst) {
			out = append(out, reached{r.Dst.Masked(), r.Index, routedBy})
		}
	}
	return out
}

// addrs returns the addresses of one interface in the host's order.
func (h Host) addrs(index int) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range h.Addrs {
		if a.Index == index {
			out = append(out, a.Prefix)
		}
	}
	return out
}
