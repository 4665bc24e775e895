package testnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Node is one host of the lab: a network namespace.
type Node struct {
	Name  string // within the lab, such as "router"
	NetNS string // as `ip netns exec` wants it, such as "tl1234-router"
	Path  string // as `nsenter --net=` wants it

	// For clients, and for the router as one of the ISP's: own addresses on eth0, own
	// and gateway's hardware address, and the resolver they would learn by DHCP (the
	// router; for that its own). The router's ULA is that of its LAN.
	IPv4       netip.Addr
	ULA        netip.Addr
	IPv6       netip.Addr
	MAC        net.HardwareAddr
	GatewayMAC net.HardwareAddr
	Resolver   netip.AddrPort

	lab  *Lab
	nl   *netlink.Handle
	user int // as whom Do runs; 0: as who runs the lab

	mu      sync.Mutex
	packets *os.File // see SendFrame
}

// AddNode creates a further namespace, gone with the lab.
func (l *Lab) AddNode(name string) (*Node, error) {
	n := &Node{Name: name, NetNS: l.id + "-" + name, lab: l}
	path, err := createNetNS(n.NetNS)
	if err != nil {
		return nil, fmt.Errorf("add node %s: %w", name, err)
	}
	n.Path = path
	l.mu.Lock()
	l.nodes = append(l.nodes, n)
	l.mu.Unlock()
	if err := n.prepare(); err != nil {
		return nil, fmt.Errorf("prepare node %s: %w", name, err)
	}
	return n, nil
}

// prepare opens netlink in the namespace and sets what every node needs before its
// first interface appears.
func (n *Node) prepare() error {
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer ns.Close()
	if n.nl, err = netlink.NewHandleAt(ns); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	err = n.Sysctl(
		"net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0",
		// Addresses must be usable at once, not after duplicate address detection.
		"net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
		// Inherited from the host for IPv4; a strict filter would hide leaks.
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
	)
	if err != nil {
		return err
	}
	// br_netfilter is on in new namespaces where it is loaded: frames that merely
	// cross a bridge would meet the nat hooks.
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		err := n.Sysctl("net.bridge.bridge-nf-call-" + name + "=0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := n.nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// Do runs fn on an OS thread inside the node's namespace. Sockets that fn opens
// stay in the namespace; goroutines that it starts do not run there. fn must
// return errors and not call t.Fatal.
func (n *Node) Do(fn func() error) error {
	if n.user == 0 {
		return inNetNS(n.Path, fn)
	}
	return inNetNS(n.Path, func() error {
		if err := becomeUser(n.user); err != nil {
			return err
		}
		return fn()
	})
}

// As returns the same host seen by a user without privilege: what it opens and dials is
// that user's. Programs that it runs, and the frames that it sends, are root's.
func (n *Node) As(user int) *Node {
	return &Node{
		Name: n.Name, NetNS: n.NetNS, Path: n.Path, IPv4: n.IPv4, ULA: n.ULA, IPv6: n.IPv6, MAC: n.MAC,
		GatewayMAC: n.GatewayMAC, Resolver: n.Resolver, lab: n.lab, nl: n.nl, user: user,
	}
}

// Command prepares a program to run inside the namespace. nsenter is replaced by
// the program, so that its process id is the program's; unlike `ip netns exec` it
// keeps the mount namespace and thus /sys/fs/bpf. The program ends with ctx and with
// the lab.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(n.lab.running, cancel)
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.Path, "--", name}, args...)...)
}

// Run runs a program inside the namespace to its end and returns its output.
func (n *Node) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := n.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %s in %s: %w: %s", name, n.Name, err, out)
	}
	return string(out), nil
}

// Sysctl writes settings of the form "net.ipv4.ip_forward=1". Interface names
// that contain dots are not supported.
func (n *Node) Sysctl(settings ...string) error {
	return n.Do(func() error {
		for _, setting := range settings {
			key, value, err := splitSetting(setting)
			if err != nil {
				return err
			}
			// No O_CREATE: a missing key must say "no such file".
			f, err := os.OpenFile(key, os.O_WRONLY, 0)
			if err != nil {
				return fmt.Errorf("open sysctl: %w", err)
			}
			_, err = f.WriteString(value)
			f.Close()
			if err != nil {
				return fmt.Errorf("write sysctl %s: %w", setting, err)
			}
		}
		return nil
	})
}

// Dial connects from inside the namespace. The address is literal, since a
// resolver would look names up in the host's namespace.
func (n *Node) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.DialFrom(ctx, netip.Addr{}, network, addr)
}

// DialFrom connects from a given source address of the node.
func (n *Node) DialFrom(ctx context.Context, src netip.Addr, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", n.Name, err)
	}
	var dialer net.Dialer
	if src.IsValid() {
		dialer.LocalAddr = localAddr(network, src)
	}
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", n.Name, err)
	}
	return conn, nil
}

// Listen opens a TCP listener inside the namespace.
func (n *Node) Listen(network, addr string) (net.Listener, error) {
	var ln net.Listener
	err := n.Do(func() (err error) {
		ln, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", n.Name, err)
	}
	return ln, nil
}

// ListenPacket opens a UDP socket inside the namespace.
func (n *Node) ListenPacket(network, addr string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", n.Name, err)
	}
	return conn, nil
}

// Netlink is a handle whose sockets are in the namespace.
func (n *Node) Netlink() *netlink.Handle { return n.nl }

// KillAll ends every process inside the namespace but the caller's.
func (n *Node) KillAll() error { return killInside(n.Path) }

func (n *Node) close() error {
	if n.nl != nil {
		n.nl.Close()
	}
	if n.packets != nil {
		n.packets.Close()
	}
	return errors.Join(killInside(n.Path), removeNetNS(n.Path))
}

func localAddr(network string, src netip.Addr) net.Addr {
	if strings.HasPrefix(network, "udp") {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
}

func splitSetting(setting string) (path, value string, err error) {
	key, value, ok := strings.Cut(setting, "=")
	if !ok {
		return "", "", fmt.Errorf("parse sysctl %q: no value", setting)
	}
	return filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/")), value, nil
}
