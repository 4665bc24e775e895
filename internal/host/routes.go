package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

var (
	multicast4 = netip.MustParsePrefix("224.0.0.0/4")
	multicast6 = netip.MustParsePrefix("ff00::/8")
)

// readAddrs lists all addresses. An address with a peer is a host address here:
// its prefix length describes the peer, whose subnet is among the routes.
func readAddrs() ([]plan.Addr, error) {
	list, err := dump("addresses", func() ([]netlink.Addr, error) {
		return netlink.AddrList(nil, netlink.FAMILY_ALL)
	})
	if err != nil {
		return nil, err
	}
	addrs := make([]plan.Addr, 0, len(list))
	for _, a := range list {
		prefix, err := prefixOf(a.IPNet)
		if err != nil {
			return nil, fmt.Errorf("parse address of interface %d: %w", a.LinkIndex, err)
		}
		addrs = append(addrs, plan.Addr{Index: a.LinkIndex, Prefix: prefix})
	}
	return addrs, nil
}

// readRoutes lists the unicast routes of all tables, one per path. Routes to
// multicast prefixes, which some kernels call unicast, are left out: nothing is
// forwarded by them.
func readRoutes() ([]plan.Route, error) {
	list, err := dump("routes", func() ([]netlink.Route, error) {
		filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	var routes []plan.Route
	for i := range list {
		paths, err := pathsOf(&list[i])
		if err != nil {
			return nil, err
		}
		routes = append(routes, paths...)
	}
	return routes, nil
}

// pathsOf returns one plan.Route for every interface a route may leave by.
func pathsOf(r *netlink.Route) ([]plan.Route, error) {
	ip := r.Family == netlink.FAMILY_V4 || r.Family == netlink.FAMILY_V6
	if !ip || r.Type != unix.RTN_UNICAST {
		return nil, nil
	}
	dst, err := prefixOf(r.Dst)
	if err != nil {
		return nil, fmt.Errorf("parse route of table %d: %w", r.Table, err)
	}
	if config.PrefixCovers(multicast4, dst) || config.PrefixCovers(multicast6, dst) {
		return nil, nil
	}
	path := plan.Route{Dst: dst, Index: r.LinkIndex, Table: uint32(r.Table), By: len(r.Gw) > 0 || r.Via != nil}
	if len(r.MultiPath) == 0 {
		// Only routes by a nexthop object come without an interface. Unseen,
		// their interface would be an uplink without a guard.
		if path.Index == 0 {
			return nil, fmt.Errorf("find the interface of route %s: the kernel names a nexthop object only; set net.ipv4.nexthop_compat_mode=1", dst)
		}
		return []plan.Route{path}, nil
	}
	paths := make([]plan.Route, 0, len(r.MultiPath))
	for _, hop := range r.MultiPath {
		path.Index, path.By = hop.LinkIndex, len(hop.Gw) > 0 || hop.Via != nil
		paths = append(paths, path)
	}
	return paths, nil
}

// readRules lists the rules that look at the mark, without our own.
func readRules() ([]plan.Rule, error) {
	var rules []plan.Rule
	for _, family := range []struct{ number, netlink int }{{4, netlink.FAMILY_V4}, {6, netlink.FAMILY_V6}} {
		list, err := dump(fmt.Sprintf("IPv%d rules", family.number), func() ([]netlink.Rule, error) {
			return netlink.RuleList(family.netlink)
		})
		if lacksFamily(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			if r.Mask == nil || r.Protocol == plan.RuleProtocol {
				continue
			}
			rules = append(rules, plan.Rule{Priority: r.Priority, Mark: r.Mark, Mask: *r.Mask, Family: family.number})
		}
	}
	return rules, nil
}

// lacksFamily is of a kernel without a family, or without policy routing for it.
func lacksFamily(err error) bool { return errors.Is(err, unix.EAFNOSUPPORT) }

// prefixOf turns a network of the netlink package into its value form, host
// bits kept.
func prefixOf(n *net.IPNet) (netip.Prefix, error) {
	if n == nil {
		return netip.Prefix{}, errors.New("the kernel gave no prefix")
	}
	bits, size := n.Mask.Size()
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok || size == 0 {
		return netip.Prefix{}, fmt.Errorf("read prefix %v", n)
	}
	if size == 8*net.IPv4len {
		addr = addr.Unmap() // an IPv4 default route may come in 16 bytes
	}
	return netip.PrefixFrom(addr, bits), nil
}
