package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// A lab is a router between a LAN and an uplink, in namespaces of its own; the
// test runs in the router's.
//
//	client 192.168.50.11 ── lan0 192.168.50.1   62.10.0.2 wan0 ── 62.10.0.1 server
//	       fd50::11, fe80::11    fd50::1, fe80::1
//
// It forwards everything and filters nothing: what reaches the server was
// let out by our programs.
type lab struct {
	client, server  namespace
	lan, wan        netlink.Link
	clientIf, srvIf int
	root            string // a bpffs
}

const (
	clientAddr = "192.168.50.11"
	routerAddr = "192.168.50.1"
	wanAddr    = "62.10.0.2"
	serverAddr = "62.10.0.1"
	directAddr = "62.10.9.9" // behind the server, excluded by the lab's plan
	otherAddr  = "62.10.7.7" // behind the server, not excluded
	nearAddr   = "62.10.8.8" // behind the server, though the plan takes it for local
)

func newLab(t *testing.T) *lab {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace: %v; run as root", err)
	}
	must(t, loopback())
	l := &lab{client: newNamespace(t), server: newNamespace(t), root: newBPFFS(t)}
	l.connect(t)
	for _, s := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		sysctl(t, s, "1")
	}
	for _, s := range []string{"all", "default", "lan0", "wan0"} {
		sysctl(t, "ipv4/conf/"+s+"/rp_filter", "0")
	}
	return l
}

// loopback sets up the interface that a namespace begins with.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// connect makes both cables, addresses and routes.
func (l *lab) connect(t *testing.T) {
	t.Helper()
	l.makeLAN(t, 0)
	l.wan, l.srvIf = cable(t, "wan0", 0, l.server, []string{wanAddr + "/24"}, []string{serverAddr + "/24"}, wanAddr)
	address(t, l.wan, nil, serverAddr)
}

// makeLAN makes the LAN's cable; at an index of the router's side if not 0.
func (l *lab) makeLAN(t *testing.T, index int) {
	t.Helper()
	l.lan, l.clientIf = cable(t, "lan0", index, l.client,
		[]string{routerAddr + "/24", "fd50::1/64", "fe80::1/64"}, []string{clientAddr + "/24", "fd50::11/64", "fe80::11/64"}, routerAddr)
}

// cable makes a veth pair between us and a namespace, whose end is called peer.
func cable(t *testing.T, name string, index int, far namespace, ours, theirs []string, gateway string) (netlink.Link, int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, index
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}))
	peer, err := netlink.LinkByName("peer")
	must(t, err)
	must(t, netlink.LinkSetNsFd(peer, int(far)))
	near, err := netlink.LinkByName(name)
	must(t, err)
	address(t, near, ours, "")
	index = 0
	must(t, far.do(func() error {
		peer, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		index = peer.Attrs().Index
		return configure(peer, theirs, gateway)
	}))
	return near, index
}

func address(t *testing.T, l netlink.Link, addrs []string, gateway string) {
	t.Helper()
	must(t, configure(l, addrs, gateway))
}

func configure(l netlink.Link, addrs []string, gateway string) error {
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags |= unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("add address %s: %w", text, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	if gateway == "" {
		return nil
	}
	return netlink.RouteAdd(&netlink.Route{
		LinkIndex: l.Attrs().Index, Gw: netip.MustParseAddr(gateway).AsSlice(),
	})
}

// plan is what torbpf would plan for the lab, by hand.
func (l *lab) plan() *plan.Plan {
	lan, wan := l.lan.Attrs(), l.wan.Attrs()
	return &plan.Plan{
		Mark: plan.Mark{Shift: 24},
		LANs: []plan.LAN{{
			Name: lan.Name, Index: lan.Index, Ethernet: true,
			Addr4: netip.MustParseAddr(routerAddr), Addr6: netip.MustParseAddr("fd50::1"),
			Prefixes: prefixes("192.168.50.0/24", "fd50::/64", "fe80::/10"),
		}},
		Uplinks: []plan.Uplink{{Name: wan.Name, Index: wan.Index, Ethernet: true}},
		Local: []plan.LocalSubnet{
			{Prefix: netip.MustParsePrefix("62.10.8.0/24"), Index: lan.Index, Name: lan.Name},
			{Prefix: netip.MustParsePrefix("192.168.50.0/24"), Index: lan.Index, Name: lan.Name},
			{Prefix: netip.MustParsePrefix("fd50::/64"), Index: lan.Index, Name: lan.Name},
		},
		LocalAddrs: []netip.Addr{
			netip.MustParseAddr(wanAddr), netip.MustParseAddr(routerAddr), netip.MustParseAddr("fd50::1"),
		},
		Onion4:    netip.MustParsePrefix("10.192.0.0/10"),
		Onion6:    netip.MustParsePrefix("fd74:6f72::/40"),
		Ports:     plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054},
		LocalMode: config.LocalConnected,
		Rules:     config.DirectPrefixes(config.KindDestination, prefixes("62.10.9.0/24")...),
	}
}

// open opens a Datapath in the router's namespace and removes it at the end.
func (l *lab) open(t *testing.T, clsact bool) *Datapath {
	t.Helper()
	d := Open(Options{Root: l.root, Namespace: "lab", Clsact: clsact})
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Errorf("remove datapath: %v", err)
		}
	})
	return d
}

// apply attaches a plan wholly and opens Tor's gate.
func apply(t *testing.T, d *Datapath, p *plan.Plan) {
	t.Helper()
	attachLANs(t, guards(t, d, p))
}

// attachLANs attaches the rest of a generation, with its gate open.
func attachLANs(t *testing.T, g *Generation) {
	t.Helper()
	must(t, g.collection.Maps[abi.DatapathMapGates].Put(uint32(0), gateOpen))
	if err := g.AttachLANs(); err != nil {
		t.Fatalf("attach LANs: %v", err)
	}
}

// guards attaches the guards only, but for that of what is forwarded, behind which nothing
// would be seen of what the uplink's does; the generation lives until the test ends.
func guards(t *testing.T, d *Datapath, p *plan.Plan) *Generation {
	t.Helper()
	g := allGuards(t, d, p)
	must(t, errors.Join(forwardGuard.detach(d)...))
	return g
}

// allGuards attaches all of them.
func allGuards(t *testing.T, d *Datapath, p *plan.Plan) *Generation {
	t.Helper()
	g, err := d.ApplyGuards(p)
	if err != nil {
		t.Fatalf("apply guards: %v", err)
	}
	t.Cleanup(func() { must(t, g.Close()) })
	return g
}

// namespace is an open network namespace.
type namespace int

func newNamespace(t *testing.T) namespace {
	t.Helper()
	fd := -1
	must(t, onNewThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return errors.Join(err, loopback())
	}))
	t.Cleanup(func() { unix.Close(fd) })
	return namespace(fd)
}

// do runs f in the namespace; sockets opened there stay in it.
func (ns namespace) do(f func() error) error {
	return onNewThread(func() error {
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func onNewThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

func newBPFFS(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "torbpf-test-")
	must(t, err)
	path := filepath.Join(dir, "bpf")
	root, err := Mount(path)
	if err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		must(t, Unmount(path))
		must(t, os.Remove(dir)) // fails if something is still pinned
	})
	return root
}

// run runs commands of one line each in the router's namespace.
func run(t *testing.T, lines string) string {
	t.Helper()
	var all strings.Builder
	for line := range strings.Lines(lines) {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", strings.TrimSpace(line), err, out)
		}
		all.Write(out)
	}
	return all.String()
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await polls until done, and fails the test when that takes too long.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(testnet.Patience(10 * time.Second))
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
