package abi

import (
	"fmt"
	"slices"
)

// verdictNames follow the enum of bpf/abi.h: VERDICT_TOR is "tor".
var verdictNames = map[Verdict]string{
	VerdictNone:     "none",
	VerdictDirect:   "direct",
	VerdictLocal:    "local",
	VerdictInbound:  "inbound",
	VerdictVia:      "via",
	VerdictTor:      "tor",
	VerdictOnion:    "onion",
	VerdictDNS:      "dns",
	VerdictResolver: "resolver",
	VerdictRefused:  "refused",
	VerdictTime:     "time",
	VerdictPending:  "pending",
}

// String returns the name of a verdict as the CLI, the metrics and the
// documentation write it.
func (v DatapathVerdict) String() string {
	if name, ok := verdictNames[v]; ok {
		return name
	}
	return fmt.Sprintf("verdict-%d", uint32(v))
}

// reasonText is what there is to say of one reason.
type reasonText struct {
	verdict Verdict
	name    string
	explain string
}

// reasonTexts follow the enum of bpf/abi.h: REASON_OTHER_VLAN is "other-vlan".
var reasonTexts = map[Reason]reasonText{
	ReasonNone:      {VerdictNone, "none", "not judged"},
	ReasonOtherVLAN: {VerdictNone, "other-vlan", "the frame belongs to a VLAN device, where it is judged if that one is torified"},

	ReasonNonIP:         {VerdictLocal, "non-ip", "not IP (ARP, LLDP, …): no router forwards it"},
	ReasonLinkLocal:     {VerdictLocal, "link-local", "to a link-local address: it stays on its link"},
	ReasonMulticast:     {VerdictLocal, "multicast", "to a multicast or broadcast address: it never leaves by an uplink"},
	ReasonRouterAddress: {VerdictLocal, "router-address", "to the router itself: its own firewall decides"},
	ReasonLocalSubnet:   {VerdictLocal, "local-subnet", "to a subnet that no uplink leads to"},

	ReasonDirectSource:      {VerdictDirect, "direct-source", "the source, or who on this machine sends it, is excluded: the packet leaves in clear"},
	ReasonDirectDestination: {VerdictDirect, "direct-destination", "the destination is excluded: the packet leaves in clear"},
	ReasonExemptMark:        {VerdictDirect, "exempt-mark", "the packet carries an exempt mark: it leaves in clear"},
	ReasonDirectPort:        {VerdictDirect, "direct-port", "the destination's port, or the protocol, is excluded: the packet leaves in clear"},
	ReasonDirectDevice:      {VerdictDirect, "direct-device", "the device is excluded by its hardware address: the packet leaves in clear"},
	ReasonDirectInterface:   {VerdictVia, "direct-interface", "its route leads to an excluded interface: the packet leaves by that one, in clear, or by none"},
	ReasonDirectDomain:      {VerdictDirect, "direct-domain", "the device was told this address for an excluded name: the packet leaves in clear"},
	ReasonDirectList:        {VerdictDirect, "direct-list", "the destination is in a list that is excluded: the packet leaves in clear"},
	ReasonReservedOpen:      {VerdictDirect, "reserved-open", "private or reserved destination, let out by the local mode \"reserved\""},

	ReasonTCP:      {VerdictTor, "tcp", "TCP: through Tor"},
	ReasonOnionTCP: {VerdictOnion, "onion-tcp", "TCP to an onion service: through Tor, whatever is excluded"},
	ReasonDNSUDP:   {VerdictDNS, "dns-udp", "DNS by UDP, to whatever address: answered through Tor"},
	ReasonOnionDNS: {VerdictDNS, "onion-dns", "DNS by UDP to an address of an onion service: answered through Tor"},
	ReasonDNSTCP:   {VerdictResolver, "dns-tcp", "DNS by TCP, which tor does not serve: answered by the sentry, through Tor"},

	ReasonInboundReply: {VerdictPending, "inbound-reply", "perhaps a reply to a connection begun outside: passes if conntrack says so"},
	ReasonLateMark:     {VerdictPending, "late-mark", "refused, unless a prerouting rule gives it an exempt mark"},

	ReasonNoConnection: {VerdictPending, "no-connection", "TCP that begins nothing, and tor has no such connection: passes if conntrack knows it for a reply to one from outside, else its sender is reset"},

	ReasonBlockedSource:   {VerdictRefused, "blocked-source", "the source is blocked, or runs by Tor and asks the proxy past it"},
	ReasonBlockedDevice:   {VerdictRefused, "blocked-device", "the device is blocked by its hardware address"},
	ReasonOnionFromDirect: {VerdictRefused, "onion-from-direct", "an onion service is out of reach for a source outside Tor"},
	ReasonOnionMoved:      {VerdictRefused, "onion-moved", "an address that another of the tors gave out for a .onion name: the device uses this one now, and asks for the name anew"},
	ReasonOnionProtocol:   {VerdictRefused, "onion-protocol", "onion services speak TCP only"},
	ReasonFragment:        {VerdictRefused, "fragment", "a fragment: its ports, or those of its other parts, are hidden"},
	ReasonPrivate:         {VerdictRefused, "private", "private or reserved destination that no local interface leads to; with --local none also a local subnet"},
	ReasonTorNotReady:     {VerdictRefused, "tor-not-ready", "Tor is starting, hung or gone: nothing begins until it is back"},
	ReasonUDP:             {VerdictRefused, "udp", "Tor carries no UDP"},
	ReasonQUIC:            {VerdictRefused, "quic", "QUIC (UDP 443): Tor carries no UDP, browsers fall back to TCP"},
	ReasonNTP:             {VerdictRefused, "ntp", "NTP (UDP 123): Tor carries no UDP, the router can serve the time"},
	ReasonICMP:            {VerdictRefused, "icmp", "Tor carries no ICMP: ping and traceroute have no way out"},
	ReasonProtocol:        {VerdictRefused, "protocol", "a protocol that is neither TCP nor UDP: Tor does not carry it"},
	ReasonMalformed:       {VerdictRefused, "malformed", "headers that cannot be read to their end"},

	ReasonClientGuard:  {VerdictRefused, "client-guard", "the router's own, stopped at an uplink: neither Tor's nor excluded, and nftables has not stopped it"},
	ReasonClientEnded:  {VerdictRefused, "client-ended", "the router's own: the rule that let its socket out has ended, or was removed"},
	ReasonForwardGuard: {VerdictRefused, "forward-guard", "about to be forwarded, which it must not be: nftables is missing or was bypassed"},
	ReasonUplinkGuard:  {VerdictRefused, "uplink-guard", "stopped at an uplink: an earlier guard is missing or was bypassed"},
	ReasonDNSGuard:     {VerdictRefused, "dns-guard", "DNS that no redirect takes to Tor: the router's resolver would ask in clear"},

	ReasonForeignSource: {VerdictRefused, "foreign-source", "the source is of no LAN (forged, or out of date): an answer would leave by the uplink"},
	ReasonDeliveryGuard: {VerdictRefused, "delivery-guard", "about to be delivered where it must not be: bound for Tor, and at another port of the router, or from a source that no LAN has; without NAT also what the kernel would tell a site of a device"},
	ReasonRouterDNS:     {VerdictRefused, "router-dns", "DNS by broadcast, or encrypted to the router: its own resolver would ask in clear"},
	ReasonDNSNoData:     {VerdictRefused, "dns-no-data", "DNS for HTTPS or SVCB records by UDP: answered at once that there are none, so that browsers go on"},
	ReasonNTPRouter:     {VerdictTime, "ntp-router", "NTP to whomever: answered by the router's own time server"},
	ReasonOwnDNS:        {VerdictNone, "own-dns", "DNS of the router's own by an uplink: no LAN's, and in clear unless it is encrypted"},
	ReasonCutPeer:       {VerdictRefused, "cut-peer", "from the far end of a connection that was cut, or the router's answer to it: silent for ten minutes"},
	ReasonDNSDomain:     {VerdictResolver, "dns-domain", "DNS by UDP for an excluded name: the sentry asks the resolver that was chosen for those, in clear"},
	ReasonStranger:      {VerdictRefused, "stranger", "a socket of this router's that is not tor's has this connection, as another transparent proxy"},
	ReasonDNSLocal:      {VerdictResolver, "dns-local", "DNS by UDP for a local name: answered by the sentry, never through Tor"},
}

// String returns the name of a reason as the CLI, the metrics and the
// documentation write it.
func (r DatapathReason) String() string {
	if text, ok := reasonTexts[r]; ok {
		return text.name
	}
	return fmt.Sprintf("reason-%d", uint32(r))
}

// ReasonNamed finds a reason by its name.
func ReasonNamed(name string) (Reason, bool) {
	for reason, text := range reasonTexts {
		if text.name == name {
			return reason, true
		}
	}
	return 0, false
}

// ReasonNames are the names of all reasons, in alphabetical order.
func ReasonNames() []string {
	var names []string
	for _, text := range reasonTexts {
		names = append(names, text.name)
	}
	slices.Sort(names)
	return names
}

// Explain says in a few words why a packet got its verdict, for people.
func (r DatapathReason) Explain() string {
	if text, ok := reasonTexts[r]; ok {
		return text.explain
	}
	return "unknown: the program in the kernel is newer than this command"
}

// Verdict returns the one verdict to which a reason belongs; an unknown reason
// belongs to VerdictRefused.
func (r DatapathReason) Verdict() Verdict {
	if text, ok := reasonTexts[r]; ok {
		return text.verdict
	}
	return VerdictRefused
}
