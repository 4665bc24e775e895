package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// uplinks returns the interfaces that lead outside, by index: those with a
// default-like route in any table and those named. A LAN never is one, even
// where it was forced: the guard of an uplink would drop what Tor sends.
//
// A host without an uplink is planned all the same, so that a router may be
// closed before its WAN is up.
func uplinks(cfg config.Config, h Host, lans []Link) ([]Uplink, error) {
	var links []Link
	for _, r := range cfg.Rules.Of(config.KindInterface) { // guarded, and nothing behind it is local
		if l, ok := h.LinkByName(r.Interface); ok && !l.Loopback {
			links = append(links, l)
		}
	}
	for _, name := range cfg.Uplinks {
		l, ok := h.LinkByName(name)
		if !ok && cfg.Wait {
			continue
		}
		if !ok {
			return nil, unknownInterface(h, name, nil)
		}
		if l.Loopback {
			return nil, refuse(ErrLoopback, name, nil,
				"%s leads nowhere and is no uplink: name the interface towards the internet, or none if it has a default route", name)
		}
		links = append(links, l)
	}
	for _, r := range h.Routes {
		if !defaultLike(r.Dst) {
			continue
		}
		l, ok := h.LinkByIndex(r.Index)
		if !ok {
			if len(cfg.Uplinks) > 0 {
				continue
			}
			// Unguarded, and its subnets would count as local.
			return nil, refuse(ErrUnknownUplink, r.Dst.String(), nil,
				"the default route %s (table %d) leaves by interface %d, which is not to be seen here, so it cannot be guarded: name it with --uplink, or try again if it has just gone",
				r.Dst, r.Table, r.Index)
		}
		if !l.Loopback {
			links = append(links, l)
		}
	}
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	var out []Uplink
	for _, l := range slices.Compact(links) {
		if !slices.ContainsFunc(lans, func(lan Link) bool { return lan.Index == l.Index }) {
			out = append(out, Uplink{Name: l.Name, Index: l.Index, Ethernet: l.Ethernet})
		}
	}
	return out, nil
}

// exits returns the interfaces that rules let packets leave by, and those of the rules'
// that everything is routed to, of which ways tell. Such a one is no exit unless somebody has
// insisted: a VPN may take the default route long after it was excluded, and no file may ask
// for everything.
func exits(h Host, ways []Route, rules config.Rules, insisted bool) (out []Exit, widest []Widest) {
	for i, r := range rules {
		if r.Kind != config.KindInterface {
			continue
		}
		route, all := h.everything(r.Interface, ways)
		if all {
			widest = append(widest, Widest{r.Interface, route})
		}
		if all && !insisted {
			continue
		}
		l, _ := h.LinkByName(r.Interface)
		out = append(out, Exit{Name: r.Interface, Index: l.Index, Rule: i})
	}
	return out, widest
}

// outside returns the subnets of the uplinks.
func outside(h Host, uplinks []Uplink) []netip.Prefix {
	var out []netip.Prefix
	for _, u := range uplinks {
		for _, a := range h.addrs(u.Index) {
			if !a.Addr().IsLinkLocalUnicast() {
				out = append(out, a.Masked())
			}
		}
	}
	slices.SortFunc(out, config.ComparePrefixes)
	return slices.Compact(out)
}

// localSubnets returns what is reached without an uplink, sorted by prefix: the
// subnets of and the routes by the LANs, and of other interfaces their subnets
// and what private space they lead to. Loopback, link-local and multicast are
// left out, which are judged before.
//
// A public prefix that is routed by an interface other than a default route's
// (television, telephony, a second provider, a split tunnel) is not local: it
// would be a way to the internet that nobody excluded. And while no uplink is
// known any interface may turn out to be one, so only LANs count.
//
// A prefix reached by several interfaces has an entry for each, the ones with
// an address in the subnet first, and may leave by any of them. A BPF map holds
// one of these, whichever: there it only says that the prefix is local, while
// the guards that know the interface get the whole list.
func localSubnets(h Host, uplinks []Uplink, lans []LAN) []LocalSubnet {
	var out []LocalSubnet
	for _, r := range h.reaches() {
		l, ok := h.LinkByIndex(r.index)
		if !ok || l.Loopback || r.prefix.Addr().IsLinkLocalUnicast() || r.prefix.Addr().IsMulticast() {
			continue
		}
		behindLAN := slices.ContainsFunc(lans, func(lan LAN) bool { return lan.Index == r.index })
		outside := len(uplinks) == 0 || slices.ContainsFunc(uplinks, func(u Uplink) bool { return u.Index == r.index })
		if !behindLAN && (outside || r.how == routedBy && !Private(r.prefix)) {
			continue
		}
		s := LocalSubnet{Prefix: r.prefix, Index: l.Index, Name: l.Name}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b LocalSubnet) int { return config.ComparePrefixes(a.Prefix, b.Prefix) })
	return out
}

// localAddrs returns every address of the host and the broadcast addresses of
// every IPv4 subnet that has any, sorted. Loopback addresses are left out: the
// kernel drops them as martians when they come from a LAN.
func localAddrs(h Host) []netip.Addr {
	var out []netip.Addr
	for _, a := range h.Addrs {
		if addr := a.Prefix.Addr(); !addr.IsLoopback() {
			out = append(out, addr)
		}
	}
	out = append(out, broadcasts(h)...)
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// broadcasts returns the addresses that stand for all hosts of a subnet, of any
// interface: the last and, to kernels before 5.13, the first.
func broadcasts(h Host) []netip.Addr {
	var out []netip.Addr
	for _, a := range h.Addrs {
		if addr := a.Prefix.Addr(); addr.Is4() && !addr.IsLoopback() && a.Prefix.Bits() < 31 {
			out = append(out, a.Prefix.Masked().Addr(), broadcast(a.Prefix))
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// broadcast returns the last address of an IPv4 subnet.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// Private says whether no public host has an address under a prefix.
func Private(p netip.Prefix) bool {
	return slices.ContainsFunc(Reserved(), func(r netip.Prefix) bool { return config.PrefixCovers(r, p) })
}
