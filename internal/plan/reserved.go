package plan

import (
	"net/netip"
	"slices"
)

// reserved is space in which no public host lives.
//
// IPv4 is the list of networking.tor: the entries of the IANA IPv4
// Special-Purpose Address Registry (RFC 6890) that are not globally reachable,
// multicast (RFC 5771), and 6to4 relay anycast (RFC 7526).
//
// IPv6 holds the counterparts in the IANA IPv6 Special-Purpose Address
// Registry, multicast (RFC 4291) and the old site-local space (RFC 3879). It
// leaves out what embeds a public IPv4 address and so leads to public hosts:
// 64:ff9b::/96 (NAT64, RFC 6052), 2002::/16 (6to4) and 2001::/32 (Teredo). With
// the local mode "reserved" they would be a way past Tor.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network, RFC 791
	netip.MustParsePrefix("10.0.0.0/8"),      // private, RFC 1918
	netip.MustParsePrefix("100.64.0.0/10"),   // carrier NAT, RFC 6598
	netip.MustParsePrefix("127.0.0.0/8"),     // loopback, RFC 1122
	netip.MustParsePrefix("169.254.0.0/16"),  // link-local, RFC 3927
	netip.MustParsePrefix("172.16.0.0/12"),   // private, RFC 1918
	netip.MustParsePrefix("192.0.0.0/24"),    // IETF protocols, RFC 6890
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation, RFC 5737
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays, RFC 7526
	netip.MustParsePrefix("192.168.0.0/16"),  // private, RFC 1918
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarking, RFC 2544
	netip.MustParsePrefix("198.51.100.0/24"), // documentation, RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation, RFC 5737
	netip.MustParsePrefix("224.0.0.0/4"),     // multicast, RFC 5771
	netip.MustParsePrefix("240.0.0.0/4"),     // class E and broadcast, RFC 1112

	netip.MustParsePrefix("::/128"),         // unspecified, RFC 4291
	netip.MustParsePrefix("::1/128"),        // loopback, RFC 4291
	netip.MustParsePrefix("::ffff:0:0/96"),  // IPv4-mapped, RFC 4291
	netip.MustParsePrefix("64:ff9b:1::/48"), // a network's own NAT64, RFC 8215
	netip.MustParsePrefix("100::/64"),       // discard, RFC 6666
	netip.MustParsePrefix("100:0:0:1::/64"), // dummy, RFC 9780
	netip.MustParsePrefix("2001:2::/48"),    // benchmarking, RFC 5180
	netip.MustParsePrefix("2001:10::/28"),   // ORCHID, RFC 4843
	netip.MustParsePrefix("2001:db8::/32"),  // documentation, RFC 3849
	netip.MustParsePrefix("3fff::/20"),      // documentation, RFC 9637
	netip.MustParsePrefix("5f00::/16"),      // segment routing, RFC 9602
	netip.MustParsePrefix("fc00::/7"),       // unique local, RFC 4193
	netip.MustParsePrefix("fe80::/10"),      // link-local, RFC 4291
	netip.MustParsePrefix("fec0::/10"),      // site-local, RFC 3879
	netip.MustParsePrefix("ff00::/8"),       // multicast, RFC 4291
}

// Reserved returns the space in which no public host lives, disjoint prefixes
// of both families, sorted, IPv4 first.
func Reserved() []netip.Prefix { return slices.Clone(reserved) }
