package host

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Owners returns the names of those links that have an address each, by their addresses.
func Owners(links []int) (map[netip.Addr]string, error) {
	list, err := dump("addresses", func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	names := make(map[int]string)
	out := make(map[netip.Addr]string)
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if !ok || !slices.Contains(links, a.LinkIndex) {
			continue
		}
		if names[a.LinkIndex] == "" {
			link, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("name interface %d: %w", a.LinkIndex, err)
			}
			names[a.LinkIndex] = link.Attrs().Name
		}
		out[addr.Unmap()] = names[a.LinkIndex]
	}
	return out, nil
}
