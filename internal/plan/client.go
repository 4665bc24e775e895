package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// Client is what becomes of what this machine itself sends.
type Client struct {
	// All says that it is Tor's but for what the rest exempts. Without it only what has
	// the class tor already is, which `torbpf exec --tor` gives to what it runs.
	All        bool
	Rules      config.Rules  // masked and sorted, those of LANs left out; the marks without our bits
	Identities []Identity    // who sends
	Direct     []Opening     // destinations that go direct; disjoint, what takes back is left out of them
	Local      []LocalSubnet // private subnets of this machine's own interfaces, its uplinks' too
	OnLink     []LocalSubnet // of IPv6, what its links reach without a router: neighbours are asked there
	Exits      []Exit        // by which packets may leave directly; Rule is a place in Rules
	Widest     []Widest      // interfaces of rules that everything is routed to
	Beside     []string      // bridges that are no LANs: what is behind them is not this machine's
	Ephemeral  uint16        // the first port that the kernel gives to who asks for none; 0: any may be
	ProxyPort  uint16        // of the proxy past Tor, on loopback; 0: there is none
	Shortcut   *Shortcut     `json:",omitempty"` // nil: all takes the way by nftables
}

// Identity is a user, a control group or a program whose packets go direct, or are Tor's.
// One of User, Cgroup and Program is meant, by Kind.
type Identity struct {
	Kind    config.Kind
	User    uint32
	Cgroup  uint64 // its id
	Program FileID
	Policy  config.Policy
	Ends    time.Duration // since boot; 0: never
	Rule    int           // its place in Rules; -1: torbpf's own
	Tor     bool          // it is tor, which sends what others have given it
	// ThenTor says that its packets are Tor's when that has ended, until ThenEnds.
	ThenTor  bool
	ThenEnds time.Duration // since boot; 0: never
}

// At is the policy at a time since boot; found is false when all that was said has ended.
func (id Identity) At(boot time.Duration) (policy config.Policy, found bool) {
	switch {
	case id.Ends == 0 || id.Ends > boot:
		return id.Policy, true
	case id.ThenTor && (id.ThenEnds == 0 || id.ThenEnds > boot):
		return config.PolicyTor, true
	}
	return "", false
}

// FileID tells a file from all others, whatever its name.
type FileID struct {
	Major, Minor uint32 // of the device
	Inode        uint64
}

// Opening is a prefix of destinations that go direct.
type Opening struct {
	Prefix netip.Prefix
	Ends   time.Duration // since boot; 0: never
	Until  time.Time     // the same by the wall clock; zero: never
}

// Identities are what the rules about users, control groups and programs stand for on
// this host, by what they name. What is not there has none.
type Identities struct {
	Users    map[string]uint32
	Cgroups  map[string]uint64
	Programs map[string]FileID
}

// client plans for what this machine itself sends; nil for leaving it alone.
func client(cfg config.Config, h Host, rules config.Rules) *Client {
	if !cfg.Client.Enable && len(h.Own) == 0 {
		return nil
	}
	c := &Client{All: cfg.Client.Enable, Rules: rules, Local: ownSubnets(h, cfg.Local), Ephemeral: h.Ephemeral, ProxyPort: cfg.Client.ProxyPort}
	c.Identities = slices.Concat(h.Own, identities(h.Identities, rules))
	destinations := rules.Of(config.KindDestination)
	if cfg.Local == config.LocalReserved {
		destinations = append(config.DirectPrefixes(config.KindDestination, Reserved()...), destinations...)
	}
	c.Direct = openings(destinations)
	c.OnLink = onLink(h)
	c.Exits, c.Widest = exits(h, h.OwnWays, rules, cfg.Everything)
	for _, l := range h.Links {
		if l.Kind == "bridge" && !slices.Contains(cfg.Interfaces, l.Name) && len(h.addrs(l.Index)) > 0 {
			c.Beside = append(c.Beside, l.Name)
		}
	}
	return c
}

// Identifies says whether somebody on this host is meant by what a rule names.
func (c *Client) Identifies(e config.Entry) bool {
	return slices.ContainsFunc(c.Identities, func(id Identity) bool { return id.Rule >= 0 && c.Rules[id.Rule].Entry == e })
}

// identities finds out whom the rules name.
func identities(known Identities, rules config.Rules) []Identity {
	var out []Identity
	for i, r := range rules {
		id := Identity{Kind: r.Kind, Policy: r.Policy, Ends: r.Ends, Rule: i}
		if r.Beneath != nil {
			id.ThenTor, id.ThenEnds = true, r.Beneath.Ends
		}
		var found bool
		switch r.Kind {
		case config.KindUser:
			id.User, found = known.Users[r.User]
		case config.KindCgroup:
			id.Cgroup, found = known.Cgroups[r.Cgroup]
		case config.KindProgram:
			id.Program, found = known.Programs[r.Program]
		}
		if found {
			out = append(out, id)
		}
	}
	return out
}

// ownSubnets returns the private subnets that this machine has an address in, on
// whichever interface: its neighbours are reached without Tor. A public one is not local:
// its hosts are the internet's.
func ownSubnets(h Host, mode config.LocalMode) []LocalSubnet {
	if mode == config.LocalNone {
		return nil
	}
	var out []LocalSubnet
	for _, a := range h.Addrs {
		l, ok := h.LinkByIndex(a.Index)
		s := LocalSubnet{Prefix: a.Prefix.Masked(), Index: l.Index, Name: l.Name}
		if ok && !l.Loopback && Private(s.Prefix) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b LocalSubnet) int {
		return cmp.Or(config.ComparePrefixes(a.Prefix, b.Prefix), cmp.Compare(a.Index, b.Index))
	})
	return out
}

// onLink returns the prefixes of IPv6 whose hosts are neighbours by an interface, public ones
// too: the subnets of its addresses, and routes that name no other host. A route that leads
// everything there says nothing of neighbours, and link-local addresses are such everywhere.
func onLink(h Host) []LocalSubnet {
	var out []LocalSubnet
	add := func(prefix netip.Prefix, index int) {
		l, ok := h.LinkByIndex(index)
		s := LocalSubnet{Prefix: prefix.Masked(), Index: l.Index, Name: l.Name}
		if !ok || l.Loopback || !l.Ethernet || !prefix.Addr().Is6() || defaultLike(prefix) || prefix.Addr().IsLinkLocalUnicast() || slices.Contains(out, s) {
			return
		}
		out = append(out, s)
	}
	for _, a := range h.Addrs {
		add(a.Prefix, a.Index)
	}
	for _, r := range h.Routes {
		if !r.By {
			add(r.Dst, r.Index)
		}
	}
	slices.SortStableFunc(out, func(a, b LocalSubnet) int {
		return cmp.Or(config.ComparePrefixes(a.Prefix, b.Prefix), cmp.Compare(a.Index, b.Index))
	})
	return out
}

// openings returns what rules for destinations let out, as disjoint prefixes: of several
// that cover an address the longest counts, and of equal ones the last. What lets out
// within something that does so as well holds for as long as either, unless something
// beneath it is Tor's then.
func openings(rules []config.Rule) []Opening {
	var out []Opening
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		out = append(out, openingsBelow(netip.MustParsePrefix(all), nil, rules)...)
	}
	return out
}

// openingsBelow is openings within a prefix, of which wider rules say around; nil: it is
// not let out.
func openingsBelow(p netip.Prefix, around *Opening, rules []config.Rule) []Opening {
	var inside []config.Rule
	for _, r := range rules {
		switch {
		case r.Prefix.Masked() == p:
			around = around.under(r)
		case config.PrefixCovers(p, r.Prefix):
			inside = append(inside, r)
		}
	}
	if len(inside) == 0 && around == nil {
		return nil
	}
	if len(inside) == 0 {
		return []Opening{{Prefix: p, Ends: around.Ends, Until: around.Until}}
	}
	lower, upper := config.Halves(p)
	return append(openingsBelow(lower, around, inside), openingsBelow(upper, around, inside)...)
}

// under is what becomes of an opening where a narrower rule speaks.
func (o *Opening) under(r config.Rule) *Opening {
	switch {
	case r.Policy != config.PolicyDirect:
		return nil
	case r.Beneath != nil: // which takes it back from what is around it
	case o != nil && (o.Ends == 0 || r.Ends != 0 && r.Ends <= o.Ends):
		return o
	}
	return &Opening{Ends: r.Ends, Until: r.Until}
}
