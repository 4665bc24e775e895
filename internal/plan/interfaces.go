package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
)

// chosen is what becomes of the interfaces that a configuration names.
type chosen struct {
	links    []Link   // to be torified, in the order given
	waiting  []string // missing or not fit yet
	unfit    []string // why, of each
	there    []int    // indices of those that only lack an address
	patterns []string
}

// chooseLANs finds the interfaces to torify, or the first reason against one.
// Where they are to be waited for, one that does not fit now is blocked by its
// name until it does.
func chooseLANs(cfg config.Config, h Host) (chosen, error) {
	var c chosen
	if len(cfg.Interfaces) == 0 {
		if cfg.Client.Enable || len(h.Own) > 0 {
			return c, nil
		}
		return c, noInterface(cfg, h)
	}
	for _, name := range cfg.Interfaces {
		if config.IsPattern(name) {
			c.patterns = append(c.patterns, name)
			c.addMatching(cfg, h, name)
			continue
		}
		l, ok := h.LinkByName(name)
		err := unknownInterface(h, name, candidates(cfg, h))
		if ok {
			err = h.attachable(cfg, l)
		}
		switch {
		case err == nil:
			c.add(l)
		case cfg.Wait:
			c.await(name, l.Index, err)
		default:
			return c, err
		}
	}
	if len(c.links) == 0 && !cfg.Wait {
		return c, noMatch(h, c.patterns)
	}
	return c, nil
}

// addMatching adds what a pattern stands for and could be torified. An uplink
// that the user named is never meant.
func (c *chosen) addMatching(cfg config.Config, h Host, pattern string) {
	for _, l := range h.Links {
		if !config.MatchesPattern(pattern, l.Name) || slices.Contains(cfg.Uplinks, l.Name) {
			continue
		}
		switch err := h.attachable(cfg, l); {
		case err == nil:
			c.add(l)
		case errors.Is(err, ErrNoAddress): // known by now, so that the forward guard holds it, too
			c.await(l.Name, l.Index, err)
		}
	}
}

// await has an interface waited for. One that is there and only lacks an address is a
// LAN to the guards already; what has a default route may be an uplink yet.
func (c *chosen) await(name string, index int, unfit error) {
	c.waiting = append(c.waiting, name)
	c.unfit = append(c.unfit, unfit.Error())
	if errors.Is(unfit, ErrNoAddress) {
		c.there = append(c.there, index)
	}
}

func (c *chosen) add(l Link) {
	if !slices.Contains(c.links, l) {
		c.links = append(c.links, l)
	}
}

// attachable says why an interface cannot be torified, the cause that explains
// the others first: a bridge port has no address because it is a bridge port.
func (h Host) attachable(cfg config.Config, l Link) error {
	if err := h.refuseStacked(l); err != nil {
		return err
	}
	// One that is a LAN stays one: any device may announce a default route (RA).
	if r, ok := h.defaultRoute(l.Index); ok && !cfg.Force && !slices.Contains(h.Torified, l.Index) {
		return refuseDefaultRoute(l, r, candidates(cfg, h))
	}
	return h.refuseNoAddress(l)
}

// refuseStacked judges what an interface is and what lies above and below it.
func (h Host) refuseStacked(l Link) error {
	for _, check := range []func(Link) error{h.refuseLoopback, h.refuseEnslaved, h.refuseTrunk, h.refuseBridgeNF} {
		if err := check(l); err != nil {
			return err
		}
	}
	return nil
}

// Candidates are the interfaces of a host that could be torified, and lead to no internet.
func Candidates(cfg config.Config, h Host) []string { return candidates(cfg, h) }

// candidates returns the interfaces that could be torified without force.
func candidates(cfg config.Config, h Host) []string {
	var out []string
	for _, l := range h.Links {
		_, outside := h.defaultRoute(l.Index)
		outside = outside || slices.Contains(cfg.Uplinks, l.Name)
		if !outside && h.refuseStacked(l) == nil && h.refuseNoAddress(l) == nil {
			out = append(out, l.Name)
		}
	}
	return out
}

func noInterface(cfg config.Config, h Host) error {
	fit := candidates(cfg, h)
	if len(fit) == 0 {
		return refuse(ErrNoInterface, "", nil,
			"no interface given, and none of this host's fits (%s): give the one your devices are behind an address, then torbpf attach it",
			orElse(names(h.Links), "it has none"))
	}
	return refuse(ErrNoInterface, "", fit,
		"no interface given: name the one your devices are behind, e.g. torbpf attach %s (these fit: %s)",
		fit[0], strings.Join(fit, ", "))
}

func noMatch(h Host, patterns []string) error {
	return refuse(ErrUnknownInterface, patterns[0], nil,
		"no interface that could be torified is called %s here: name one of %s", strings.Join(patterns, " or "), orElse(names(h.Links), "those that ip link lists"))
}

// clientWord is the flag that may be mistaken for an interface.
const clientWord = "client"

// unknownInterface names those that may be meant: the near ones, else those that fit, else all.
func unknownInterface(h Host, name string, fit []string) error {
	existing := names(h.Links)
	if near := nearNames(name, existing); len(near) > 0 {
		return refuse(ErrUnknownInterface, name, near,
			"there is no interface %s here: did you mean %s?", name, strings.Join(near, " or "))
	}
	if len(nearNames(name, []string{clientWord})) > 0 {
		return refuse(ErrUnknownInterface, name, nil,
			"there is no interface %s here: did you mean --%s, for this machine itself?", name, clientWord)
	}
	if len(fit) > 0 {
		return refuse(ErrUnknownInterface, name, fit,
			"there is no interface %s here: name the one your devices are behind (these fit: %s)", name, strings.Join(fit, ", "))
	}
	return refuse(ErrUnknownInterface, name, nil,
		"there is no interface %s here: name one of %s", name, orElse(existing, "those that ip link lists"))
}

func (h Host) refuseLoopback(l Link) error {
	if !l.Loopback {
		return nil
	}
	return refuse(ErrLoopback, l.Name, nil,
		"%s carries only this machine's own traffic, and no LAN is behind it: name the interface your devices are behind", l.Name)
}

// refuseEnslaved names the interface to attach instead. Frames of a bridge
// port or bond member that arrive here may yet be switched, and the rules that
// match an input interface would see the master, so they would not hold.
func (h Host) refuseEnslaved(l Link) error {
	if l.Master == 0 {
		return nil
	}
	master, ok := h.LinkByIndex(l.Master)
	if !ok {
		return refuse(ErrEnslaved, l.Name, nil,
			"%s is enslaved to interface %d, which is not to be seen here: free it with ip link set %s nomaster", l.Name, l.Master, l.Name)
	}
	if master.Kind == "vrf" {
		return refuse(ErrEnslaved, l.Name, nil,
			"%s is in VRF %s, whose routing comes before the rules that keep packets from leaving without Tor: take it out with ip link set %s nomaster",
			l.Name, master.Name, l.Name)
	}
	top := h.top(master)
	return refuse(ErrEnslaved, l.Name, []string{top.Name},
		"%s is %s %s: torbpf attach %s", l.Name, role(master.Kind), master.Name, top.Name)
}

func role(kind string) string {
	switch kind {
	case "bridge":
		return "a port of bridge"
	case "bond":
		return "a member of bond"
	case "":
		return "enslaved to"
	}
	return "a port of " + kind
}

// top climbs from a bond into the bridge that it may be a port of; never into
// a VRF, which cannot be attached.
func (h Host) top(l Link) Link {
	for range h.Links {
		master, ok := h.LinkByIndex(l.Master)
		if !ok || master.Kind == "vrf" {
			return l
		}
		l = master
	}
	return l
}

// carried says, by the kind of the upper interface, what an interface below it
// is and why it cannot be attached. A tc program on the lower one sees frames
// that the stack takes to have come in by the upper one.
var carried = []carrier{
	{"a trunk: its tagged frames belong to the VLANs", []string{"vlan"}},
	{"shared: its frames are handed to", []string{"macvlan", "macvtap", "ipvlan", "ipvtap"}},
	{"the conduit of a switch: its frames belong to the ports", []string{"dsa"}},
	{"encrypted: what is inside its frames arrives by", []string{"macsec"}},
}

// carrier is a way of being below other interfaces.
type carrier struct {
	what  string
	kinds []string // of the upper interface
}

// refuseTrunk names the interfaces to attach instead. Only the kinds above
// count: a tunnel or a veth also has an interface "below" it.
func (h Host) refuseTrunk(l Link) error {
	for _, c := range carried {
		var uppers []string
		for _, u := range h.Links {
			if u.Parent == l.Index && slices.Contains(c.kinds, u.Kind) {
				uppers = append(uppers, u.Name)
			}
		}
		if len(uppers) == 0 {
			continue
		}
		list := strings.Join(uppers, " ")
		text := fmt.Sprintf("%s is %s %s: torbpf attach %s", l.Name, c.what, strings.Join(uppers, ", "), list)
		if c.kinds[0] == "vlan" {
			text += "; devices without a tag on the same wire need a VLAN of their own"
		}
		return refuse(ErrTrunk, l.Name, uppers, "%s", text)
	}
	return nil
}

// refuseBridgeNF looks below a VLAN as well: what comes in untagged at a port
// has been through the NAT hook before it reaches the VLAN on the bridge.
func (h Host) refuseBridgeNF(l Link) error {
	if !h.BridgeNF {
		return nil
	}
	what, below := "a bridge", l
	for range h.Links {
		if below.Kind == "bridge" {
			return refuse(ErrBridgeNF, l.Name, nil,
				"%s is %s whose packets run through nftables on the port already, before torbpf marks them, so they would not be redirected to Tor: "+
					"sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0; "+
					"where containers need those on, give the LAN an interface without a bridge", l.Name, what)
		}
		next, ok := h.LinkByIndex(below.Parent)
		if !ok || !slices.ContainsFunc(carried, func(c carrier) bool { return slices.Contains(c.kinds, below.Kind) }) {
			return nil
		}
		below, what = next, "above bridge "+next.Name
	}
	return nil
}

func refuseDefaultRoute(l Link, r Route, fit []string) error {
	what := "the default route"
	if r.Dst.Bits() > 0 {
		what = "a default route in disguise,"
	}
	next := "name the interface your devices are behind"
	if len(fit) > 0 {
		next = "torbpf attach " + fit[0]
	}
	return refuse(ErrDefaultRoute, l.Name, fit,
		"%s has %s %s (table %d), so it leads to the internet and is no LAN: %s; or insist with --force of torbpf attach",
		l.Name, what, r.Dst, r.Table, next)
}

// refuseNoAddress wants more than IPv6 link-local: a redirect needs an address
// of the interface in the scope of its clients, or nftables drops the packet.
func (h Host) refuseNoAddress(l Link) error {
	addrs := h.addrs(l.Index)
	for _, p := range addrs {
		if p.Addr().Is4() || !p.Addr().IsLinkLocalUnicast() {
			return nil
		}
	}
	has := "no address"
	if len(addrs) > 0 {
		has = "no address but a link-local one"
	}
	return refuse(ErrNoAddress, l.Name, nil,
		"%s has %s, so there is none to redirect its devices to: ip addr add 192.168.50.1/24 dev %s", l.Name, has, l.Name)
}
