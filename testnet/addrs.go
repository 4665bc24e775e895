package testnet

import "net/netip"

// Addresses are the same in every lab: labs cannot see one another.
var (
	// The WAN segment between the router's eth0 and the ISP's wan0.
	WANRouter4 = netip.MustParseAddr("62.10.0.2")
	WANRouter6 = netip.MustParseAddr("2a0c:10::2")
	WANISP4    = netip.MustParseAddr("62.10.0.1")
	WANISP6    = netip.MustParseAddr("2a0c:10::1")

	// What an uplink of the router has its address from.
	WAN4 = netip.MustParsePrefix("62.10.0.0/16")
	WAN6 = netip.MustParsePrefix("2a0c:10::/32")

	// The link between the ISP and the internet; Core4 and Core6 are the source
	// addresses of connections that begin in the internet namespace.
	Core4 = netip.MustParseAddr("62.11.0.2")
	Core6 = netip.MustParseAddr("2a0c:11::2")

	// The router's addresses on the first LAN (eth1) and the second (eth2).
	LANRouter4   = netip.MustParseAddr("192.168.50.1")
	LANRouterULA = netip.MustParseAddr("fd50::1")
	LANRouter6   = netip.MustParseAddr("2a0d:50::1")
	LAN2Router4  = netip.MustParseAddr("192.168.60.1")
	LAN2Router6  = netip.MustParseAddr("2a0d:60::1")

	// LAN prefixes: IPv4, unique local and global IPv6.
	LAN4   = netip.MustParsePrefix("192.168.50.0/24")
	LANULA = netip.MustParsePrefix("fd50::/64")
	LAN6   = netip.MustParsePrefix("2a0d:50::/64")
	LAN2v4 = netip.MustParsePrefix("192.168.60.0/24")
	LAN2v6 = netip.MustParsePrefix("2a0d:60::/64")

	// Web serves HTTP, HTTPS and echo; Other is a second such host, for tests
	// that treat one destination differently.
	Web4   = netip.MustParseAddr("51.20.0.80")
	Web6   = netip.MustParseAddr("2a0e:20::80")
	Other4 = netip.MustParseAddr("51.21.0.80")
	Other6 = netip.MustParseAddr("2a0e:21::80")

	// Resolver is the ISP's resolver; PublicResolver is the same server under
	// the addresses of a well-known public one that devices have built in.
	Resolver4       = netip.MustParseAddr("62.53.0.53")
	Resolver6       = netip.MustParseAddr("2a0c:53::53")
	PublicResolver4 = netip.MustParseAddr("9.9.9.9")
	PublicResolver6 = netip.MustParseAddr("2620:fe::fe")
)

// Ports of the lab's services.
const (
	PortDNS        = 53
	PortHTTP       = 80
	PortHTTPS      = 443
	PortEcho       = 7    // TCP and UDP; UDP 443 echoes as well, as a stand-in for QUIC
	PortForwardTCP = 8080 // on the router's WAN address: HTTP on client1
	PortForwardUDP = 8081 // on the router's WAN address: UDP echo on client1
)

// Hardware addresses are fixed so that tests can name devices by MAC.
const (
	MACISP     = "02:00:00:00:10:01"
	MACWAN     = "02:00:00:00:10:02"
	MACLAN     = "02:00:00:00:50:01"
	MACClient1 = "02:00:00:00:50:11"
	MACClient2 = "02:00:00:00:50:12"
	MACLAN2    = "02:00:00:00:60:01"
	MACClient3 = "02:00:00:00:60:11"
)
