package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/torbpf/torbpf/testnet"
)

// Interfaces of the router.
const (
	lan = "eth1"
	wan = "eth0"
)

var (
	device = netip.MustParseAddr("192.168.50.11")
	router = testnet.WANRouter4

	// Direct is excluded, where the router knows exclusions.
	Direct = netip.MustParsePrefix("51.21.0.0/16")
	// Refused is Tor's, so UDP to it is refused.
	Refused = netip.MustParsePrefix("51.20.0.0/16")

	server = netip.MustParseAddr("51.21.0.80") // takes bulk TCP
)

// Path is one router with a device and a receiver.
type Path struct {
	Config Config
	Device *testnet.Node
	Router *testnet.Node
	Far    *testnet.Node

	lab         *testnet.Lab
	pinRoot     string
	deviceIndex int   // of the device's interface
	farIndex    int   // of that of the far end
	sink        *sink // at the far end
	backSink    *sink // at the device
	stream      *stream
	trans       int // a listener in place of tor's TransPort
}

// NewPath builds a path in a bare lab, and prepares its router.
func NewPath(ctx context.Context, lab *testnet.Lab, c Config) (*Path, error) {
	p := &Path{Config: c, lab: lab, pinRoot: pinRoot}
	for _, step := range []func(context.Context) error{p.addNodes, p.connect, p.enableNAPI, p.fixNeighbours, p.prepare} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("path %q: %w", c.Name, err)
		}
	}
	return p, nil
}

func (p *Path) prepare(ctx context.Context) error {
	if p.Config.prepare == nil {
		return nil
	}
	return p.Config.prepare(ctx, p)
}

func (p *Path) addNodes(context.Context) error {
	for name, node := range map[string]**testnet.Node{"device": &p.Device, "router": &p.Router, "far": &p.Far} {
		var err error
		if *node, err = p.lab.AddNode(p.Config.Name + "-" + name); err != nil {
			return err
		}
	}
	return p.Router.Sysctl("net.ipv4.ip_forward=1")
}

func (p *Path) connect(context.Context) error {
	err := p.lab.Link(
		testnet.Iface{Node: p.Device, Name: "eth0", MAC: testnet.MACClient1, Addrs: []string{device.String() + "/24"}},
		testnet.Iface{Node: p.Router, Name: lan, MAC: testnet.MACLAN, Addrs: []string{testnet.LANRouter4.String() + "/24"}})
	if err != nil {
		return err
	}
	err = p.lab.Link(
		testnet.Iface{Node: p.Far, Name: "eth0", MAC: testnet.MACISP, Addrs: []string{testnet.WANISP4.String() + "/24", server.String() + "/32"}},
		testnet.Iface{Node: p.Router, Name: wan, MAC: testnet.MACWAN, Addrs: []string{router.String() + "/24"}})
	if err != nil {
		return err
	}
	dev, err := p.Device.Netlink().LinkByName("eth0")
	if err != nil {
		return err
	}
	p.deviceIndex = dev.Attrs().Index
	if dev, err = p.Far.Netlink().LinkByName("eth0"); err != nil {
		return err
	}
	p.farIndex = dev.Attrs().Index
	if err := p.Device.AddRoute("0.0.0.0/0", testnet.LANRouter4); err != nil {
		return err
	}
	if err := p.Router.AddRoute("0.0.0.0/0", testnet.WANISP4); err != nil {
		return err
	}
	return p.Far.AddRoute(testnet.LAN4.String(), router)
}

// enableNAPI makes veth take packets as the driver of a network card does, in batches,
// and receive frames that an XDP program sends.
func (p *Path) enableNAPI(context.Context) error {
	for _, end := range []struct {
		node *testnet.Node
		name string
	}{{p.Device, "eth0"}, {p.Router, lan}, {p.Router, wan}, {p.Far, "eth0"}} {
		if err := end.node.Do(func() error { return testnet.SetGRO(end.name, true) }); err != nil {
			return err
		}
	}
	return nil
}

// fixNeighbours keeps address resolution out of what is timed.
func (p *Path) fixNeighbours(ctx context.Context) error {
	for _, n := range []struct {
		node     *testnet.Node
		dev      string
		addr     netip.Addr
		hardware string
	}{
		{p.Device, "eth0", testnet.LANRouter4, testnet.MACLAN},
		{p.Router, lan, device, testnet.MACClient1},
		{p.Router, wan, testnet.WANISP4, testnet.MACISP},
		{p.Far, "eth0", router, testnet.MACWAN},
	} {
		if _, err := n.node.Run(ctx, "ip", "neigh", "replace", n.addr.String(), "lladdr", n.hardware, "dev", n.dev, "nud", "permanent"); err != nil {
			return err
		}
	}
	return nil
}

// Receive counts and drops from now on what arrives at the far end, and at the device, until
// the function that it returns is called.
func (p *Path) Receive() (stop func() error, err error) {
	node, ifname := p.Far, "eth0"
	if p.Config.Floor {
		node, ifname = p.Router, lan
	}
	if p.sink, err = newSink(node, ifname, p.outside(), false); err != nil {
		return nil, err
	}
	if p.backSink, err = newSink(p.Device, "eth0", device, true); err != nil {
		return nil, errors.Join(err, p.sink.close())
	}
	return func() error { return errors.Join(p.sink.close(), p.backSink.close()) }, nil
}

// outside is the address by which the far end knows the device.
func (p *Path) outside() netip.Addr {
	if p.Config.NAT {
		return router
	}
	return device
}
