// Package testnet builds a private internet out of network namespaces: a home
// router with LAN clients, its ISP, servers and, unless Options.NoTor is set, a
// private Tor network of real tor processes. Tests, the demo and the benchmarks
// run torbpf in the router's namespace and look at what reaches the WAN. Nothing
// leaves the namespaces.
//
//	client1 ─ port1┐
//	               br0 ─ port0 ── eth1 ┐
//	client2 ─ port2┘                   router ─ eth0 ── wan0 ─ isp ─ core0 ── eth0 ─ internet
//	               (switch)            │                 │                           (all servers and relays,
//	client3 ────────────────────  eth2 ┘                 the WAN capture              their addresses on lo)
//	(Options.SecondLAN)
//
//	router    eth0  62.10.0.2      2a0c:10::2               02:00:00:00:10:02
//	          eth1  192.168.50.1   fd50::1   2a0d:50::1     02:00:00:00:50:01
//	          eth2  192.168.60.1   fd60::1   2a0d:60::1     02:00:00:00:60:01
//	client1   eth0  192.168.50.11  fd50::11  2a0d:50::11    02:00:00:00:50:11
//	client2   eth0  192.168.50.12  fd50::12  2a0d:50::12    02:00:00:00:50:12
//	client3   eth0  192.168.60.11  fd60::11  2a0d:60::11    02:00:00:00:60:11
//	isp       wan0  62.10.0.1      2a0c:10::1               02:00:00:00:10:01
//	internet  eth0  62.11.0.2      2a0c:11::2               source of connections from outside
//	          web         51.20.0.80         2a0e:20::80    HTTP, HTTPS, echo on 7, UDP echo on 443
//	          other       51.21.0.80         2a0e:21::80    the same again
//	          resolver    62.53.0.53         2a0c:53::53    the ISP's, for exits and the router
//	          public      9.9.9.9            2620:fe::fe    the same server under other addresses
//	          auth1-3     45.1.0.1 to 45.3.0.1
//	          relay1-4    45.11.0.1 to 45.14.0.1
//	          exit1-2     45.21.0.1, 45.22.0.1, 2a0f:21::1, 2a0f:22::1
//	          onion       45.31.0.1                         the tor that serves the onion
//
// The router is as careless as an ordinary one, so that a leak test cannot pass by
// luck: it forwards both families, masquerades IPv4 (IPv6 is routed; the ISP knows
// the LANs' global prefixes), filters nothing, has rp_filter off, forwards TCP 8080
// and UDP 8081 to client1, and runs a forwarding resolver on all its addresses that
// asks the ISP's. Its nft table is named as a user would: "ip nat".
//
// Addresses are public-looking because tor and torbpf treat private and reserved
// ones specially. Each Tor relay has a /16 of its own, since tor never uses two
// relays of one /16 in a circuit.
//
// Everything needs root, nsenter, nft and, for the Tor network, tor. Namespaces are
// called tl<pid>-router and so on and live in /run/netns, so `ip netns exec` and
// `nsenter --net=` both reach them.
package testnet
