package plan

import "net/netip"

// Host is what planning needs to know of a machine: plain values, read from
// the kernel by internal/host and written by hand in tests.
type Host struct {
	Links    []Link
	Addrs    []Addr
	Routes   []Route
	Rules    []Rule
	Torified []int // indices of interfaces that are attached already
	// Ways are the routes that the kernel takes for what a LAN sends to public addresses
	// which no route is about in particular; asked for only where it matters.
	Ways []Route
	// OwnWays are those for what this machine itself sends.
	OwnWays []Route
	// TimeServer says that somebody listens on UDP 123, on more than loopback.
	TimeServer bool
	// Ephemeral is the first port that the kernel gives to who asks for none.
	Ephemeral uint16
	CPUs      int  // that are online
	BridgeNF  bool // bridged packets traverse nftables (net.bridge.bridge-nf-call-*)

	Identities Identities // what rules about this machine's own senders name
	Own        []Identity // torbpf's own among them: tor, the sentry, what exec runs
	TorGroup   string     // the control group that tor's sockets are of, below the root; "" if it is not known
}

// Link is a network interface.
type Link struct {
	Index    int
	Name     string
	Kind     string // rtnl kind ("veth", "bridge", "vlan", …); "" for hardware
	Driver   string // of hardware, as ethtool -i names it; "" if it is not known
	Loopback bool
	Down     bool // switched off, or without a carrier
	Ethernet bool // frames begin with an Ethernet header
	MAC      [6]byte
	Master   int // ifindex of the bridge, bond or VRF above it, 0 for none
	Parent   int // ifindex of the interface below a VLAN or macvlan, 0 for none
}

// Addr is an address of an interface with the length of its subnet.
type Addr struct {
	Index  int
	Prefix netip.Prefix // not masked: the address itself
}

// Route is one path of a unicast route; a multipath route is several.
type Route struct {
	Dst   netip.Prefix // 0.0.0.0/0 or ::/0 for a default route
	Index int          // outgoing interface
	Table uint32
	By    bool // by another host: what it leads to is not on the link
}

// Rule is a policy routing rule of somebody else that looks at the mark.
type Rule struct {
	Priority int
	Mark     uint32
	Mask     uint32
	Family   int // 4 or 6
}

// LinkByName returns the interface of that name.
func (h Host) LinkByName(name string) (Link, bool) {
	for _, l := range h.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// LinkByIndex returns the interface of that index.
func (h Host) LinkByIndex(index int) (Link, bool) {
	for _, l := range h.Links {
		if l.Index == index {
			return l, true
		}
	}
	return Link{}, false
}
