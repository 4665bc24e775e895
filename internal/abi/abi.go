// Package abi is the boundary between the BPF programs and Go: the compiled
// objects and every type, verdict and reason of bpf/abi.h, generated from it,
// under names that read well in Go. It imports config, for the names of
// modes, and nothing else of torbpf; all others may import it.
package abi

import (
	"math"

	"github.com/torbpf/torbpf/internal/config"
)

// Verdict is what becomes of a packet, and the class in its mark.
type Verdict = DatapathVerdict

// The verdicts of bpf/abi.h.
const (
	VerdictNone     = DatapathVerdictVERDICT_NONE
	VerdictDirect   = DatapathVerdictVERDICT_DIRECT
	VerdictLocal    = DatapathVerdictVERDICT_LOCAL
	VerdictInbound  = DatapathVerdictVERDICT_INBOUND
	VerdictVia      = DatapathVerdictVERDICT_VIA
	VerdictTor      = DatapathVerdictVERDICT_TOR
	VerdictOnion    = DatapathVerdictVERDICT_ONION
	VerdictDNS      = DatapathVerdictVERDICT_DNS
	VerdictResolver = DatapathVerdictVERDICT_RESOLVER
	VerdictRefused  = DatapathVerdictVERDICT_REFUSED
	VerdictTime     = DatapathVerdictVERDICT_TIME
	VerdictPending  = DatapathVerdictVERDICT_PENDING

	// VerdictBlockedBit is set in every class that must not be forwarded.
	VerdictBlockedBit = uint32(DatapathVerdictBitVERDICT_BLOCKED_BIT)
	// VerdictTorBits are those by which VerdictTor and VerdictOnion are told from all others.
	VerdictTorBits = uint32(DatapathVerdictBitVERDICT_TOR_BITS)
)

// MaxLANs is how many interfaces can be torified.
const MaxLANs = uint32(DatapathLimitMAX_LANS)

// MaxNested is how many rules that have ended the programs look behind. What is behind
// them, if anything, counts as "tor"; of a source as "block".
const MaxNested = int(DatapathLimitMAX_NESTED)

// What of what the router itself sends to groups gets no further than its links: values and
// masks of the first 32 bits of an address, and hop limits.
const (
	LinkGroup4     = uint32(DatapathNearGroupLINK_GROUP4)
	LinkGroup4Mask = uint32(DatapathNearGroupLINK_GROUP4MASK)
	LinkGroup6     = uint32(DatapathNearGroupLINK_GROUP6)
	LinkGroup6Mask = uint32(DatapathNearGroupLINK_GROUP6MASK)
	LinkHops       = uint8(DatapathNearGroupLINK_HOPS)
	AllHops        = uint8(DatapathNearGroupALL_HOPS)
	SSDPGroup4     = uint32(DatapathNearGroupSSDP_GROUP4)
	SSDPHops       = uint8(DatapathNearGroupSSDP_HOPS)
)

// OwnOfTor is the instance in the mark of what tor itself sends, OwnBesideTor that of what runs
// beside it, whose bits are all the first one's too.
const (
	OwnOfTor     = uint32(ClientAboveClassOWN_OF_TOR)
	OwnBesideTor = uint32(ClientAboveClassOWN_BESIDE_TOR)
)

// ForEver is until when something holds that does not end, where 0 says that it is not there.
const ForEver = uint64(math.MaxUint64)

// The words of a context in which a program that explains hands back its decision.
const (
	ExplainedVerdict      = DatapathExplainedEXPLAINED_VERDICT
	ExplainedReason       = DatapathExplainedEXPLAINED_REASON
	ExplainedReadyVerdict = DatapathExplainedEXPLAINED_READY_VERDICT
	ExplainedReadyReason  = DatapathExplainedEXPLAINED_READY_REASON
	ExplainedAnswered     = DatapathExplainedEXPLAINED_ANSWERED
)

// ClientMode is what is judged of what the router itself sends.
type ClientMode = DatapathClientMode

// The modes of bpf/abi.h.
const (
	ClientNone = DatapathClientModeCLIENT_NONE
	ClientExec = DatapathClientModeCLIENT_EXEC
	ClientAll  = DatapathClientModeCLIENT_ALL
)

// IdentityKind is whom a rule of client mode is about.
type IdentityKind = DatapathIdentityKind

// The kinds of bpf/abi.h.
const (
	IdentityUser    = DatapathIdentityKindIDENTITY_USER
	IdentityCgroup  = DatapathIdentityKindIDENTITY_CGROUP
	IdentityProgram = DatapathIdentityKindIDENTITY_PROGRAM
)

// Reason is why a packet got its verdict.
type Reason = DatapathReason

// The reasons of bpf/abi.h.
const (
	ReasonNone              = DatapathReasonREASON_NONE
	ReasonOtherVLAN         = DatapathReasonREASON_OTHER_VLAN
	ReasonNonIP             = DatapathReasonREASON_NON_IP
	ReasonLinkLocal         = DatapathReasonREASON_LINK_LOCAL
	ReasonMulticast         = DatapathReasonREASON_MULTICAST
	ReasonRouterAddress     = DatapathReasonREASON_ROUTER_ADDRESS
	ReasonLocalSubnet       = DatapathReasonREASON_LOCAL_SUBNET
	ReasonDirectSource      = DatapathReasonREASON_DIRECT_SOURCE
	ReasonDirectDestination = DatapathReasonREASON_DIRECT_DESTINATION
	ReasonExemptMark        = DatapathReasonREASON_EXEMPT_MARK
	ReasonReservedOpen      = DatapathReasonREASON_RESERVED_OPEN
	ReasonTCP               = DatapathReasonREASON_TCP
	ReasonOnionTCP          = DatapathReasonREASON_ONION_TCP
	ReasonDNSUDP            = DatapathReasonREASON_DNS_UDP
	ReasonOnionDNS          = DatapathReasonREASON_ONION_DNS
	ReasonDNSTCP            = DatapathReasonREASON_DNS_TCP
	ReasonInboundReply      = DatapathReasonREASON_INBOUND_REPLY
	ReasonLateMark          = DatapathReasonREASON_LATE_MARK
	ReasonBlockedSource     = DatapathReasonREASON_BLOCKED_SOURCE
	ReasonOnionFromDirect   = DatapathReasonREASON_ONION_FROM_DIRECT
	ReasonOnionProtocol     = DatapathReasonREASON_ONION_PROTOCOL
	ReasonFragment          = DatapathReasonREASON_FRAGMENT
	ReasonPrivate           = DatapathReasonREASON_PRIVATE
	ReasonTorNotReady       = DatapathReasonREASON_TOR_NOT_READY
	ReasonUDP               = DatapathReasonREASON_UDP
	ReasonQUIC              = DatapathReasonREASON_QUIC
	ReasonNTP               = DatapathReasonREASON_NTP
	ReasonICMP              = DatapathReasonREASON_ICMP
	ReasonProtocol          = DatapathReasonREASON_PROTOCOL
	ReasonMalformed         = DatapathReasonREASON_MALFORMED
	ReasonUplinkGuard       = DatapathReasonREASON_UPLINK_GUARD
	ReasonDNSGuard          = DatapathReasonREASON_DNS_GUARD
	ReasonForeignSource     = DatapathReasonREASON_FOREIGN_SOURCE
	ReasonDeliveryGuard     = DatapathReasonREASON_DELIVERY_GUARD
	ReasonRouterDNS         = DatapathReasonREASON_ROUTER_DNS
	ReasonDNSNoData         = DatapathReasonREASON_DNS_NO_DATA
	ReasonDNSLocal          = DatapathReasonREASON_DNS_LOCAL
	ReasonNTPRouter         = DatapathReasonREASON_NTP_ROUTER
	ReasonOwnDNS            = DatapathReasonREASON_OWN_DNS
	ReasonCutPeer           = DatapathReasonREASON_CUT_PEER
	ReasonDirectPort        = DatapathReasonREASON_DIRECT_PORT
	ReasonDirectDevice      = DatapathReasonREASON_DIRECT_DEVICE
	ReasonBlockedDevice     = DatapathReasonREASON_BLOCKED_DEVICE
	ReasonDirectInterface   = DatapathReasonREASON_DIRECT_INTERFACE
	ReasonDirectDomain      = DatapathReasonREASON_DIRECT_DOMAIN
	ReasonDNSDomain         = DatapathReasonREASON_DNS_DOMAIN
	ReasonDirectList        = DatapathReasonREASON_DIRECT_LIST
	ReasonClientGuard       = DatapathReasonREASON_CLIENT_GUARD
	ReasonClientEnded       = DatapathReasonREASON_CLIENT_ENDED
	ReasonOnionMoved        = DatapathReasonREASON_ONION_MOVED
	ReasonForwardGuard      = DatapathReasonREASON_FORWARD_GUARD
	ReasonNoConnection      = DatapathReasonREASON_NO_CONNECTION
	ReasonStranger          = DatapathReasonREASON_STRANGER
	ReasonMax               = DatapathReasonREASON_MAX
)

// Policy is what a rule says of the packets that it matches.
type Policy = DatapathPolicy

// The policies of bpf/abi.h.
const (
	PolicyTor    = DatapathPolicyPOLICY_TOR
	PolicyDirect = DatapathPolicyPOLICY_DIRECT
	PolicyBlock  = DatapathPolicyPOLICY_BLOCK
)

// LocalAddr is what an address of the map local_addrs is.
type LocalAddr = DatapathLocalAddr

// The kinds of local addresses of bpf/abi.h.
const (
	LocalAddrRouter    = DatapathLocalAddrLOCAL_ADDR_ROUTER
	LocalAddrBroadcast = DatapathLocalAddrLOCAL_ADDR_BROADCAST
)

// LocalMode is what becomes of private destinations that no rule names.
type LocalMode = DatapathLocalMode

// The local modes of bpf/abi.h.
const (
	LocalConnected = DatapathLocalModeLOCAL_CONNECTED
	LocalReserved  = DatapathLocalModeLOCAL_RESERVED
	LocalNone      = DatapathLocalModeLOCAL_NONE
)

// Fate is what becomes of a device's traffic, in a few words.
type Fate = DatapathFate

// The fates of bpf/abi.h.
const (
	FateTor     = DatapathFateFATE_TOR
	FateDirect  = DatapathFateFATE_DIRECT
	FateLocal   = DatapathFateFATE_LOCAL
	FateRefused = DatapathFateFATE_REFUSED
)

// FateNames are the names of fates.
var FateNames = map[Fate]string{FateTor: "tor", FateDirect: "direct", FateLocal: "local", FateRefused: "refused"}

// PolicyOf returns the policy that a rule means; of none that there is, PolicyTor.
func PolicyOf(p config.Policy) Policy {
	switch p {
	case config.PolicyDirect:
		return PolicyDirect
	case config.PolicyBlock:
		return PolicyBlock
	default:
		return PolicyTor
	}
}

// LocalModeOf returns the mode that a configuration means; of none that there is,
// LocalConnected, which lets nothing out.
func LocalModeOf(m config.LocalMode) LocalMode {
	switch m {
	case config.LocalReserved:
		return LocalReserved
	case config.LocalNone:
		return LocalNone
	default:
		return LocalConnected
	}
}
