package route

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// deliverHere is the route of our own table: all of a family belongs to this machine.
func deliverHere(family uint8) *netlink.Route {
	return &netlink.Route{
		Family: int(family), LinkIndex: plan.LoopbackIndex, Table: plan.RouteTable, Protocol: plan.RuleProtocol,
		Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Dst: all[family],
	}
}

// all are the default destinations.
var all = map[uint8]*net.IPNet{
	unix.AF_INET:  {IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
	unix.AF_INET6: {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
}

// routeText is the command that would add the route.
func routeText(family uint8) string {
	version := 4
	if family == unix.AF_INET6 {
		version = 6
	}
	return fmt.Sprintf("ip -%d route add local default dev lo table %d protocol %d", version, plan.RouteTable, plan.RuleProtocol)
}

// ourRoutes lists what is in our table by our protocol.
func ourRoutes(family uint8) ([]netlink.Route, error) {
	routes, err := kernel.Whole(func() ([]netlink.Route, error) {
		filter := &netlink.Route{Table: plan.RouteTable, Protocol: plan.RuleProtocol}
		return netlink.RouteListFiltered(int(family), filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	})
	if errors.Is(err, unix.ENOENT) { // there is no such table
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", plan.RouteTable, kernel.Explain(err, policyRouting))
	}
	return routes, nil
}

// delivers tells whether a route is the one of deliverHere.
func delivers(r netlink.Route) bool {
	bits := 0
	if r.Dst != nil {
		bits, _ = r.Dst.Mask.Size()
	}
	return r.Type == unix.RTN_LOCAL && r.LinkIndex == plan.LoopbackIndex && bits == 0
}

// hasLoopback tells whether a route of a family can lead to lo at all.
func hasLoopback(family uint8) bool { return family == unix.AF_INET || kernel.HasLoopback6() }

// addRoute has the table hold our route, where it can: without it nothing is handed over, and what
// would be is blocked.
func addRoute(family uint8) error {
	if !hasLoopback(family) {
		return nil
	}
	there, err := hasRoute(family)
	if there || err != nil {
		return err
	}
	err = netlink.RouteReplace(deliverHere(family))
	if errors.Is(err, unix.ENETDOWN) { // lo is down: the route is missing until it is up
		return nil
	}
	if err != nil {
		return fmt.Errorf("add route (%s): %w", routeText(family), kernel.Explain(err, policyRouting))
	}
	return nil
}

func hasRoute(family uint8) (bool, error) {
	routes, err := ourRoutes(family)
	for _, r := range routes {
		if delivers(r) {
			return true, nil
		}
	}
	return false, err
}

// removeRoutes takes from the table what is ours.
func removeRoutes(family uint8) error {
	routes, err := ourRoutes(family)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) { // somebody was faster
			return fmt.Errorf("delete route (%s): %w", routeText(family), kernel.Explain(err, policyRouting))
		}
	}
	return nil
}
