package plan

import (
	"net/netip"

	"github.com/torbpf/torbpf/internal/config"
)

// lan gathers what is known of a torified interface.
func lan(h Host, l Link) LAN {
	out := LAN{Name: l.Name, Index: l.Index, Ethernet: l.Ethernet, MAC: l.MAC}
	ipv6 := false
	out.Addrs = h.addrs(l.Index)
	for _, p := range out.Addrs {
		a := p.Addr()
		if a.Is4() {
			out.Addr4 = prefer(out.Addr4, a)
			continue
		}
		ipv6 = true
		out.Addr6 = prefer(out.Addr6, a)
	}
	var prefixes []netip.Prefix
	for _, r := range h.reaches() {
		if r.index == l.Index && !r.prefix.Addr().IsMulticast() {
			prefixes = append(prefixes, r.prefix)
		}
	}
	if ipv6 {
		// Clients ask the router's link-local address from theirs.
		prefixes = append(prefixes, linkLocal6)
	}
	out.Prefixes = config.MergePrefixes(prefixes)
	return out
}

// prefer keeps the first address, unless it is only link-local.
func prefer(have, next netip.Addr) netip.Addr {
	if !have.IsValid() || have.IsLinkLocalUnicast() && !next.IsLinkLocalUnicast() {
		return next
	}
	return have
}
