package host

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// OtherRouter is a neighbour that says of itself that it is a router, or that this machine was
// told is one.
type OtherRouter struct {
	Index int
	Addr  netip.Addr
	MAC   config.MAC // zero if it is not known
	Route bool       // this machine has a default route by it
}

// gone are the states of a neighbour that has not answered.
const gone = netlink.NUD_FAILED | netlink.NUD_INCOMPLETE

// OtherRouters returns those behind some links, as far as the kernel has seen them: it notes the
// flag of a neighbour's advertisements (RFC 4861, 4.4) and the default routes that it was told.
// Nothing is sent.
func OtherRouters(links []int) ([]OtherRouter, error) {
	list, err := dump("neighbours", func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	routes, err := readGateways(links)
	if err != nil {
		return nil, err
	}
	out := routes
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok || !slices.Contains(links, n.LinkIndex) || n.State&gone != 0 {
			continue
		}
		addr = addr.Unmap()
		i := slices.IndexFunc(out, func(r OtherRouter) bool { return r.Index == n.LinkIndex && r.Addr == addr })
		if i < 0 && n.Flags&netlink.NTF_ROUTER == 0 {
			continue
		}
		if i < 0 {
			out = append(out, OtherRouter{Index: n.LinkIndex, Addr: addr})
			i = len(out) - 1
		}
		if len(n.HardwareAddr) == len(config.MAC{}) {
			out[i].MAC = config.MAC(n.HardwareAddr)
		}
	}
	return out, nil
}

// readGateways returns those of the default routes by some links.
func readGateways(links []int) ([]OtherRouter, error) {
	list, err := dump("routes", func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	var out []OtherRouter
	for _, r := range list {
		gateway, ok := netip.AddrFromSlice(r.Gw)
		dst, err := prefixOf(r.Dst)
		if !ok || err != nil || dst.Bits() > 0 || !slices.Contains(links, r.LinkIndex) {
			continue
		}
		one := OtherRouter{Index: r.LinkIndex, Addr: gateway.Unmap(), Route: true}
		if !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out, nil
}

// RulesAhead returns in words the ip rules of others that are met before those of torbpf, but
// for that of the local table.
func RulesAhead() ([]string, error) {
	var out []string
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
			priority := max(0, r.Priority) // the library has -1 for none
			if r.Protocol == plan.RuleProtocol || priority > plan.RulePriority || priority == 0 && r.Table == unix.RT_TABLE_LOCAL {
				continue
			}
			out = append(out, fmt.Sprintf("the IPv%d rule at priority %d (table %d)", family.number, priority, r.Table))
		}
	}
	return out, nil
}
