package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firstIfindex is above what namespaces hand out by themselves.
const firstIfindex = 1000

// Iface is one end of a link.
type Iface struct {
	Node  *Node
	Name  string
	MAC   string   // random when empty
	Addrs []string // with prefix length
}

// Link connects two nodes by a veth pair, brings both ends up and waits until they
// are usable.
func (l *Lab) Link(a, b Iface) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	// Both ends would get the same index now and then, each in its own namespace.
	// The kernel takes such a device for one without a peer and may report its
	// carrier a second late (linkwatch_urgent_event), and IPv6 waits for that.
	attrs.Index = int(firstIfindex + l.links.Add(1))
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Name}
	var err error
	if veth.HardwareAddr, err = parseMAC(a.MAC); err != nil {
		return err
	}
	if veth.PeerHardwareAddr, err = parseMAC(b.MAC); err != nil {
		return err
	}
	peer, err := openNS(b.Node.Path)
	if err != nil {
		return err
	}
	defer unix.Close(peer)
	veth.PeerNamespace = netlink.NsFd(peer)
	if err := a.Node.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s to %s: %w", a.Node.Name, b.Node.Name, err)
	}
	for _, end := range []Iface{a, b} {
		if err := end.bringUp(); err != nil {
			return fmt.Errorf("bring up %s of %s: %w", end.Name, end.Node.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(l.running, 5*time.Second)
	defer cancel()
	for _, end := range []Iface{a, b} {
		err := waitFor(ctx, end.Name+" of "+end.Node.Name+" to be up", func() (bool, error) {
			link, err := end.Node.nl.LinkByName(end.Name)
			return err == nil && link.Attrs().OperState == netlink.OperUp, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (i Iface) bringUp() error {
	link, err := i.Node.nl.LinkByName(i.Name)
	if err != nil {
		return err
	}
	for _, addr := range i.Addrs {
		if err := i.Node.addAddr(link, addr); err != nil {
			return err
		}
	}
	return i.Node.nl.LinkSetUp(link)
}

func (n *Node) addAddr(link netlink.Link, prefix string) error {
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return fmt.Errorf("parse address %s: %w", prefix, err)
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := n.nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s: %w", prefix, err)
	}
	return nil
}

// AddRoute adds a route to prefix by gateway, or, without a gateway, one that
// drops.
func (n *Node) AddRoute(prefix string, gateway netip.Addr) error {
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		return fmt.Errorf("parse prefix %s: %w", prefix, err)
	}
	route := &netlink.Route{Dst: dst, Gw: gateway.AsSlice()}
	if !gateway.IsValid() {
		route.Type = unix.RTN_BLACKHOLE
	}
	if err := n.nl.RouteAdd(route); err != nil {
		return fmt.Errorf("add route %s to %s: %w", prefix, n.Name, err)
	}
	return nil
}

func (n *Node) addDefaultRoutes(gateway4, gateway6 netip.Addr) error {
	if err := n.AddRoute("0.0.0.0/0", gateway4); err != nil {
		return err
	}
	return n.AddRoute("::/0", gateway6)
}

// buildTopology creates the namespaces, links, addresses, routes and the user's
// own firewall rules of the router.
func (l *Lab) buildTopology(ctx context.Context) error {
	for name, node := range map[string]**Node{
		"router": &l.Router, "switch": &l.Switch, "isp": &l.ISP, "internet": &l.Internet,
		"client1": &l.Client1, "client2": &l.Client2,
	} {
		var err error
		if *node, err = l.AddNode(name); err != nil {
			return err
		}
	}
	for _, n := range []*Node{l.Router, l.ISP, l.Internet} {
		if err := n.Sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"); err != nil {
			return err
		}
	}
	for _, step := range []func() error{l.buildInternet, l.buildWAN, l.buildLAN, l.buildSecondLAN} {
		if err := step(); err != nil {
			return err
		}
	}
	return l.loadUserRules(ctx)
}

// buildInternet puts all servers' and relays' addresses on the loopback of one
// namespace; each tor binds to its own.
func (l *Lab) buildInternet() error {
	err := l.Link(
		Iface{Node: l.ISP, Name: "core0", Addrs: []string{"62.11.0.1/30", "2a0c:11::1/64"}},
		Iface{Node: l.Internet, Name: "eth0", Addrs: []string{Core4.String() + "/30", Core6.String() + "/64"}})
	if err != nil {
		return err
	}
	addrs := []netip.Addr{Web4, Web6, Other4, Other6, Resolver4, Resolver6, PublicResolver4, PublicResolver6}
	if !l.opts.NoTor {
		addrs = append(addrs, torAddrs()...)
	}
	lo, err := l.Internet.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo of internet: %w", err)
	}
	for _, addr := range addrs {
		if err := l.Internet.addAddr(lo, netip.PrefixFrom(addr, addr.BitLen()).String()); err != nil {
			return err
		}
	}
	gateway4, gateway6 := netip.MustParseAddr("62.11.0.1"), netip.MustParseAddr("2a0c:11::1")
	return l.Internet.addDefaultRoutes(gateway4, gateway6)
}

func (l *Lab) buildWAN() error {
	r := l.Router
	r.IPv4, r.IPv6, r.ULA = WANRouter4, WANRouter6, LANRouterULA
	r.Resolver = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), PortDNS)
	var err error
	if r.MAC, err = parseMAC(MACWAN); err != nil {
		return err
	}
	if r.GatewayMAC, err = parseMAC(MACISP); err != nil {
		return err
	}
	if err := l.linkWAN(); err != nil {
		return err
	}
	if err := l.ISP.addDefaultRoutes(Core4, Core6); err != nil {
		return err
	}
	// An ISP drops private addresses; here they would circle until their TTL ends.
	for _, prefix := range []string{"10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} {
		if err := l.ISP.AddRoute(prefix, netip.Addr{}); err != nil {
			return err
		}
	}
	return nil
}

// linkWAN connects router and ISP.
func (l *Lab) linkWAN() error {
	err := l.Link(
		Iface{Node: l.ISP, Name: "wan0", MAC: MACISP, Addrs: []string{WANISP4.String() + "/24", WANISP6.String() + "/64"}},
		Iface{Node: l.Router, Name: "eth0", MAC: MACWAN, Addrs: []string{WANRouter4.String() + "/24", WANRouter6.String() + "/64"}})
	if err != nil {
		return err
	}
	for _, prefix := range []netip.Prefix{LAN6, LAN2v6} {
		if err := l.ISP.AddRoute(prefix.String(), WANRouter6); err != nil {
			return err
		}
	}
	return l.Router.addDefaultRoutes(WANISP4, WANISP6)
}

// ReplaceWAN deletes the router's eth0 and creates it anew, as a modem does that is
// unplugged: nothing of the old one stays but its name, and captures of it end.
func (l *Lab) ReplaceWAN() error {
	if err := l.Router.deleteLink("eth0"); err != nil {
		return err
	}
	return l.linkWAN()
}

// ReplaceLAN does the same to the router's eth1.
func (l *Lab) ReplaceLAN() error {
	if err := l.Router.deleteLink("eth1"); err != nil {
		return err
	}
	return l.linkLAN()
}

func (n *Node) deleteLink(name string) error {
	link, err := n.nl.LinkByName(name)
	if err == nil {
		err = n.nl.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete %s of %s: %w", name, n.Name, err)
	}
	return nil
}

// buildLAN puts the bridge into a namespace of its own, so that the router's eth1
// is a plain interface.
func (l *Lab) buildLAN() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	snooping := false // without a querier it could only lose multicast
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := l.Switch.nl.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	if err := l.Switch.nl.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set bridge up: %w", err)
	}
	if err := l.linkLAN(); err != nil {
		return err
	}
	if err := l.addClient(l.Client1, Iface{Node: l.Switch, Name: "port1"}, 50, 11, MACClient1); err != nil {
		return err
	}
	if err := l.addClient(l.Client2, Iface{Node: l.Switch, Name: "port2"}, 50, 12, MACClient2); err != nil {
		return err
	}
	return errors.Join(l.plugIn("port1"), l.plugIn("port2"))
}

// linkLAN connects router and switch.
func (l *Lab) linkLAN() error {
	err := l.Link(Iface{Node: l.Switch, Name: "port0"}, Iface{Node: l.Router, Name: "eth1", MAC: MACLAN,
		Addrs: []string{LANRouter4.String() + "/24", LANRouterULA.String() + "/64", LANRouter6.String() + "/64"}})
	if err != nil {
		return err
	}
	return l.plugIn("port0")
}

// plugIn makes an interface a port of the switch.
func (l *Lab) plugIn(name string) error {
	bridge, err := l.Switch.nl.LinkByName("br0")
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	port, err := l.Switch.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := l.Switch.nl.LinkSetMaster(port, bridge); err != nil {
		return fmt.Errorf("add %s to bridge: %w", name, err)
	}
	return nil
}

func (l *Lab) buildSecondLAN() error {
	if !l.opts.SecondLAN {
		return nil
	}
	var err error
	if l.Client3, err = l.AddNode("client3"); err != nil {
		return err
	}
	router := Iface{Node: l.Router, Name: "eth2", MAC: MACLAN2,
		Addrs: []string{LAN2Router4.String() + "/24", "fd60::1/64", LAN2Router6.String() + "/64"}}
	return l.addClient(l.Client3, router, 60, 11, MACClient3)
}

// addClient connects a client's eth0 to peer and gives it its addresses on LAN
// number lan (50 or 60).
func (l *Lab) addClient(n *Node, peer Iface, lan, host int, mac string) error {
	n.IPv4 = netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", lan, host))
	n.ULA = netip.MustParseAddr(fmt.Sprintf("fd%d::%d", lan, host))
	n.IPv6 = netip.MustParseAddr(fmt.Sprintf("2a0d:%d::%d", lan, host))
	gateway4 := netip.MustParseAddr(fmt.Sprintf("192.168.%d.1", lan))
	gateway6 := netip.MustParseAddr(fmt.Sprintf("2a0d:%d::1", lan))
	n.Resolver = netip.AddrPortFrom(gateway4, PortDNS)
	var err error
	if n.MAC, err = parseMAC(mac); err != nil {
		return err
	}
	if n.GatewayMAC, err = parseMAC(fmt.Sprintf("02:00:00:00:%d:01", lan)); err != nil {
		return err
	}
	addrs := []string{n.IPv4.String() + "/24", n.ULA.String() + "/64", n.IPv6.String() + "/64"}
	if err := l.Link(peer, Iface{Node: n, Name: "eth0", MAC: mac, Addrs: addrs}); err != nil {
		return err
	}
	return n.addDefaultRoutes(gateway4, gateway6)
}

func parseMAC(s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(s)
	if err != nil {
		return nil, fmt.Errorf("parse hardware address: %w", err)
	}
	return mac, nil
}

func openNS(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open namespace %s: %w", path, err)
	}
	return fd, nil
}
