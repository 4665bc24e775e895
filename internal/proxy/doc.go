// Package proxy is the way out of Tor that a program chooses for itself: an HTTP proxy
// on loopback that connects directly, so that one browser profile reaches the bank while
// the rest of this machine is on Tor.
//
//	 browser                    proxy (nobody)
//	─────────┐ lo   ┌──────────────────────────────┐ class direct
//	 CONNECT ├────▶ │ page? ─ name? ─ permitted? ──┼─────────────▶ destination
//	 GET     │:3128 │           │                  │
//	─────────┘      │           └──────────────────┼─────────────▶ resolver of the
//	                └──────────────────────────────┘               user's choice
//
// The process has no privilege and writes no mark. It is started in a control group of
// its own, whose sockets the datapath exempts; outside of it what it sends is Tor's, as
// with any other program. So nothing that goes wrong here lets more out than what was
// sent to the proxy on purpose.
//
// Whom it serves: whatever runs on this machine, without asking who it is; a page in a
// browser that does not use it can make no request to it that names another
// destination. Where it does not go: to this machine itself, by whichever address, since
// what listens there trusts loopback or a firewall; to link-local, multicast and
// broadcast addresses; and to .onion, which is Tor's. The address counts that a
// connection is about to be made to, so no answer of a resolver leads around that.
//
// It keeps no log of destinations.
package proxy
