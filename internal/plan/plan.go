// Package plan turns a configuration and the facts of a host into a Plan:
// every mark, port, priority and prefix that the rest of torbpf applies. It is
// pure: no kernel, no files, so that its tests read as text.
package plan

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// What is ours on the host, beside interfaces and prefixes.
const (
	// Table names the nftables table (family inet) that torbpf owns.
	Table = "torbpf"

	// PriorityClassify runs right after conntrack (-200): there the
	// direction of a connection is known and no user rule has run yet.
	PriorityClassify = -199
	// PriorityUntracked precedes conntrack.
	PriorityUntracked = -300
	// PriorityLateMarks runs after the marks of the user's mangle rules
	// (-150) and before any address is rewritten.
	PriorityLateMarks = -120
	// PriorityRedirect precedes the users' dstnat (-100): the first NAT
	// chain that rewrites a connection wins.
	PriorityRedirect = -110
	// PriorityGuard precedes the users' filter chains (0), so that no
	// "established accept" of theirs is consulted for what we drop. An
	// accept of ours never overrules theirs.
	PriorityGuard = -10
	// PriorityProbe is behind the filter chains of users (0) and of those who
	// come after them: there probes are counted and dropped.
	PriorityProbe = 300
	// PriorityAccelerate is behind all of those, too: what they have let through may have its
	// flow put into the flowtable.
	PriorityAccelerate = 350
	// PriorityDelivery is where BPF guards local delivery, behind all of those
	// and the probes. Two generations take turns at this and the next; up to the last
	// may be taken by some that nobody could detach.
	PriorityDelivery     = 400
	PriorityDeliveryLast = 415

	// RulePriority is the first of our ip rules: behind the local table
	// (0), so that redirected packets never see it, and before all that a
	// VPN installs.
	RulePriority = 100
	// RouteTable holds the route by which what is handed to tor is delivered here; RulePriorityHandOver
	// is that of the ip rules that lead there, before those that block.
	RouteTable           = 0x746f72
	RulePriorityHandOver = RulePriority - 1
	// LoopbackIndex is the number of lo in every network namespace.
	LoopbackIndex = 1
	// RuleProtocol tags our ip rules (FRA_PROTOCOL), and that route, as torbpf's.
	RuleProtocol = 0x54
)

// Mark places torbpf's eight bits in the fwmark: the low nibble holds the
// class (the verdict of bpf/abi.h), the high nibble the Tor instance.
type Mark struct {
	Shift uint8
}

// Mask covers all eight bits.
func (m Mark) Mask() uint32 { return 0xff << m.Shift }

// ClassMask covers the class nibble.
func (m Mark) ClassMask() uint32 { return 0x0f << m.Shift }

// Class returns a class in place, to compare under ClassMask.
func (m Mark) Class(class uint32) uint32 { return class << m.Shift }

// Bits returns a class with an instance in place, to compare under Mask.
func (m Mark) Bits(class, instance uint32) uint32 { return (instance<<4 | class) << m.Shift }

// LAN is a torified interface.
type LAN struct {
	Name     string
	Index    int
	Ethernet bool
	MAC      [6]byte
	Addr4    netip.Addr // the address its ICMP errors come from; zero if none
	Addr6    netip.Addr
	Addrs    []netip.Prefix // its own with their subnets, in the kernel's order
	Prefixes []netip.Prefix // sources expected behind it, masked
	Early    Early          // how refusals are made before the kernel has a packet
	NotEarly string         // why they are not, where EarlyOff is not what was asked for
}

// Early is where the XDP program of a LAN runs; see bpf/early.h.
type Early uint8

// The places for it.
const (
	EarlyOff     Early = iota
	EarlyNative        // in the driver
	EarlyGeneric       // in the kernel, on packets that it has made: for tests
)

// String is as in configuration files.
func (e Early) String() string { return [...]string{"off", "native", "generic"}[e] }

// Uplink is an interface that leads to the outside.
type Uplink struct {
	Name     string
	Index    int
	Ethernet bool
	// Frames is where the XDP program of a fast path runs, by which answers of UDP come in.
	Frames Early `json:",omitempty"`
}

// LocalSubnet is a subnet reached without an uplink, and by which interface.
type LocalSubnet struct {
	Prefix netip.Prefix
	Index  int
	Name   string
}

// Ports are where redirected packets go, on the router itself.
type Ports struct {
	Trans    uint16 // tor's TransPort (TCP)
	DNS      uint16 // tor's DNSPort (UDP)
	Resolver uint16 // the sentry (TCP and UDP)
}

// Plan is all that attach applies.
type Plan struct {
	Mark       Mark
	LANs       []LAN
	Waiting    []string // wanted, but missing or not fit yet: blocked by name
	WaitingFor []int    // of those the indices that are there, but have no address yet
	Unfit      []string `json:"-"` // why, of each that is waited for; no part of what is applied
	Patterns   []string // wanted names with a * at their end: what appears under one is blocked
	Uplinks    []Uplink
	Outside    []netip.Prefix // subnets of the uplinks
	Local      []LocalSubnet
	LocalAddrs []netip.Addr // the router's own, and Broadcasts
	Broadcasts []netip.Addr // those that stand for all hosts of a subnet of the router's
	Onion4     netip.Prefix
	Onion6     netip.Prefix
	Ports      Ports // of the first tor and of the sentry
	Instances  int   // how many tors there are, see Tors; 0: one
	TProxy     bool  `json:",omitempty"` // TCP is handed to tor's socket, instead of redirected to its port
	LocalMode  config.LocalMode
	Inbound    bool
	TimeServer bool         // the router answers NTP, so it gets what devices ask others
	Fast       bool         `json:",omitempty"` // what is direct may go by the fast path, while nothing is in its way
	Flowtable  bool         `json:",omitempty"` // the same, by a flowtable of nftables
	Rules      config.Rules // masked and sorted; the marks without our bits
	Exits      []Exit       // what the rules say of outgoing interfaces
	Widest     []Widest     `json:"-"` // those that everything is routed to; no part of what is applied
	Resolver   netip.Addr   // asked for excluded names; invalid for none
	Lists      []List       `json:",omitempty"` // those of the rules that could be read
	Client     *Client      `json:",omitempty"` // nil: what this machine itself sends is left alone
}

// List is a file of destinations that go direct. What it holds is too much to be part of a
// plan, which tells only one content from another.
type List struct {
	Path   string
	Digest string        // that of internal/lists
	Ends   time.Duration // since boot; 0: never
}

// Exit is an interface by which packets may leave directly.
type Exit struct {
	Name  string
	Index int // 0 while there is none of that name
	Rule  int // its place in Rules
}

// Widest is an interface of a rule, and the route that leads everything there.
type Widest struct {
	Name  string
	Route Route
}

// ExemptMarks returns the marks that the rules exclude.
func (p *Plan) ExemptMarks() []config.Mark {
	var out []config.Mark
	for _, r := range p.Rules.Of(config.KindMark) {
		out = append(out, r.Mark)
	}
	return out
}

// AllRules are those about LANs and those about this machine itself.
func (p *Plan) AllRules() config.Rules {
	if p.Client == nil {
		return p.Rules
	}
	return slices.Concat(p.Rules, p.Client.Rules)
}

// Whom lists in words what is torified.
func (p *Plan) Whom() string {
	names := p.LANNames()
	if own := p.Own(); own != "" {
		names = append(names, own)
	}
	return strings.Join(names, ", ")
}

// Own names what of this machine is on Tor; "" for nothing.
func (p *Plan) Own() string {
	switch {
	case p.Client == nil:
		return ""
	case p.Client.All:
		return "this machine"
	}
	return "what torbpf exec runs"
}

// LANNames returns the names of the torified interfaces.
func (p *Plan) LANNames() []string {
	names := make([]string, 0, len(p.LANs))
	for _, l := range p.LANs {
		names = append(names, l.Name)
	}
	return names
}

// LANIndices returns the indices of the torified interfaces.
func (p *Plan) LANIndices() []int {
	indices := make([]int, 0, len(p.LANs))
	for _, l := range p.LANs {
		indices = append(indices, l.Index)
	}
	return indices
}

// BlockedNames returns the names of all interfaces from which nothing may be
// forwarded that was not judged: those torified and those waited for.
func (p *Plan) BlockedNames() []string { return append(p.LANNames(), p.Waiting...) }

// LANPrefixes returns all prefixes behind torified interfaces.
func (p *Plan) LANPrefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, l := range p.LANs {
		out = append(out, l.Prefixes...)
	}
	return out
}
