package host

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// somewhere are public addresses, one of each part that a default route is split into.
var somewhere = []netip.Addr{
	netip.MustParseAddr("17.3.5.7"), netip.MustParseAddr("76.3.5.7"), netip.MustParseAddr("139.3.5.7"), netip.MustParseAddr("203.3.5.7"),
	netip.MustParseAddr("2001:4:7::7"), netip.MustParseAddr("2400:4:7::7"), netip.MustParseAddr("2600:4:7::7"), netip.MustParseAddr("2a00:4:7::7"),
}

// Ways asks the kernel by which routes it would forward, with a mark, what devices of the
// LANs send somewhere on the internet: all that its rules say of interfaces, sources and
// marks counts. It sends nothing.
func Ways(lans []plan.LAN, mark uint32) []plan.Route {
	var out []plan.Route
	for _, l := range lans {
		for _, src := range sourcesOf(l) {
			for _, dst := range somewhere {
				if src.Is4() != dst.Is4() {
					continue
				}
				for _, r := range waysOf(src, dst, l.Index, mark) {
					if !slices.Contains(out, r) {
						out = append(out, r)
					}
				}
			}
		}
	}
	return out
}

// OwnWays asks it by which routes it would send, with a mark, what this machine itself sends
// somewhere on the internet.
func OwnWays(mark uint32) []plan.Route {
	var out []plan.Route
	for _, dst := range somewhere {
		for _, r := range ownWaysOf(dst, mark) {
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out
}

// waysOf returns the paths of the route that a packet would take. A kernel that would not
// forward it, be it only because forwarding is off, is asked for the route of the router's own.
func waysOf(src, dst netip.Addr, ifindex int, mark uint32) []plan.Route {
	ask := netlink.RouteGetOptions{SrcAddr: src.AsSlice(), IifIndex: ifindex, Mark: mark, FIBMatch: true}
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), &ask)
	if err != nil {
		return ownWaysOf(dst, mark)
	}
	return paths(routes)
}

// ownWaysOf is waysOf for what this machine itself sends.
func ownWaysOf(dst netip.Addr, mark uint32) []plan.Route {
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Mark: mark, FIBMatch: true})
	if err != nil {
		return nil // nothing leads there
	}
	return paths(routes)
}

func paths(routes []netlink.Route) []plan.Route {
	var out []plan.Route
	for i := range routes {
		if of, err := pathsOf(&routes[i]); err == nil { // or readRoutes has told why not
			out = append(out, of...)
		}
	}
	return out
}

// sourcesOf returns addresses that devices of a LAN may have: of each prefix one of either
// half, since rules for a part of the LAN, unlike those for one device, matter here.
func sourcesOf(l plan.LAN) []netip.Addr {
	var out []netip.Addr
	prefixes := slices.Clone(l.Prefixes)
	for _, a := range l.Addrs {
		prefixes = append(prefixes, a.Masked()) // of which Prefixes may have merged several
	}
	for _, p := range prefixes {
		if p.Addr().IsLinkLocalUnicast() {
			continue // is never forwarded
		}
		middle := []netip.Addr{p.Addr()}
		if !p.IsSingleIP() {
			_, upper := config.Halves(p)
			middle = []netip.Addr{upper.Addr().Prev(), upper.Addr()}
		}
		for _, a := range middle {
			own := slices.ContainsFunc(l.Addrs, func(own netip.Prefix) bool { return own.Addr() == a })
			if !own && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}
