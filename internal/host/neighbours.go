package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
)

// Neighbours returns whose hardware address each address has behind some links, as far as
// the kernel knows it. Somebody on the WAN may claim any. An address that several have is
// left out: it tells nobody apart.
func Neighbours(links []int) (map[netip.Addr]config.MAC, error) {
	list, err := dump("neighbours", func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	out := make(map[netip.Addr]config.MAC)
	ambiguous := make(map[netip.Addr]bool)
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok || !slices.Contains(links, n.LinkIndex) || len(n.HardwareAddr) != len(config.MAC{}) || isGroup(n.HardwareAddr) {
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

// isGroup tells multicast and broadcast, which the kernel lists among neighbours, from what
// one device has.
func isGroup(mac net.HardwareAddr) bool { return mac[0]&1 != 0 }

// RouteTo returns the index of the interface by which the kernel would send to an
// address now, with a mark; 0 for none.
func RouteTo(addr netip.Addr, mark uint32) int {
	routes, err := netlink.RouteGetWithOptions(addr.Unmap().AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	if err != nil || len(routes) == 0 {
		return 0 // nothing leads there
	}
	return routes[0].LinkIndex
}

// Hop is where a route leads: an interface, and the gateway behind it unless the
// destination is a neighbour itself.
type Hop struct {
	Index   int
	Gateway netip.Addr
}

// Sending returns where the kernel would send a packet to now that a socket of a user's has,
// with a mark, and from which address. The error says why it would not.
func Sending(dst netip.Addr, mark uint32, user *uint32) (Hop, netip.Addr, error) {
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Mark: mark, UID: user})
	if err != nil {
		return Hop{}, netip.Addr{}, fmt.Errorf("ask for the route to %s: %w", dst, err)
	}
	if len(routes) == 0 {
		return Hop{}, netip.Addr{}, fmt.Errorf("ask for the route to %s: there is none", dst)
	}
	hop := Hop{Index: routes[0].LinkIndex}
	if gateway, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		hop.Gateway = gateway.Unmap()
	}
	src, _ := netip.AddrFromSlice(routes[0].Src)
	return hop, src.Unmap(), nil
}

// Forwarding returns where the kernel would forward a packet to now that comes in by an
// interface. The error says why it would not.
func Forwarding(src, dst netip.Addr, ifindex int, mark uint32) (Hop, error) {
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{SrcAddr: src.AsSlice(), IifIndex: ifindex, Mark: mark})
	if err != nil {
		return Hop{}, fmt.Errorf("ask for the route to %s: %w", dst, err)
	}
	if len(routes) == 0 {
		return Hop{}, fmt.Errorf("ask for the route to %s: there is none", dst)
	}
	hop := Hop{Index: routes[0].LinkIndex}
	if gateway, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		hop.Gateway = gateway.Unmap()
	}
	return hop, nil
}

// FailNeighbours gives up the search for neighbours that the kernel is at behind some links. What
// waits for them is answered now, and not seconds later.
func FailNeighbours(links []int) error {
	list, err := dump("neighbours", func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, n := range list {
		if n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_PROBE) == 0 || !slices.Contains(links, n.LinkIndex) {
			continue
		}
		if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("give up neighbour %s: %w", n.IP, err)
		}
	}
	return nil
}
