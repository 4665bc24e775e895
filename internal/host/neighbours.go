package host

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/torbpf/torbpf/internal/config"
)

// Neighbours returns whose hardware address each address has, as far as the kernel
// knows it. An address that several links have is left out: it tells nobody apart.
func Neighbours() (map[netip.Addr]config.MAC, error) {
	list, err := dump("neighbours", func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	out := make(map[netip.Addr]config.MAC)
	ambiguous := make(map[netip.Addr]bool)
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok || len(n.HardwareAddr) != len(config.MAC{}) {
			continue
		}
		addr, mac := addr.Unmap(), config.MAC(n.HardwareAddr)
		if other, known := out[addr]; known && other != mac {
			ambiguous[addr] = true
		}
		out[addr] = mac
	}
	for addr := range ambiguous {
		delete(out, addr)
	}
	return out, nil
}

// RouteTo returns the index of the interface by which the kernel would send to an
// address now, with a mark; 0 for none.
func RouteTo(addr netip.Addr, mark uint32) int {
	routes, err := netlink.RouteGetWithOptions(addr.Unmap().AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	if err != nil || len(routes) == 0 {
		return 0 // nothing leads there
	}
	return routes[0].LinkIndex
}
