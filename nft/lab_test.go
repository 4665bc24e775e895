package nft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// The lab's addresses. Beside lan0 and lan1 the router has dmz0, which is local
// but not torified, and wan0.
const (
	client4, client6   = "192.168.50.11", "2001:db8:50::11"
	client24, client26 = "192.168.60.11", "2001:db8:60::11"
	dmz4, dmz6         = "172.16.7.2", "2001:db8:7::2"
	outside4, outside6 = "198.51.100.1", "2001:db8:ff::1"
	wan4, wan6         = "198.51.100.2", "2001:db8:ff::2" // the router's own, on wan0
	lan4, lan6         = "192.168.50.1", "2001:db8:50::1" // the router's own, on lan0
	onion4, onion6     = "10.192.0.7", "fd7a:6f6e:696f::7"
)

// patience bounds every wait for something that must happen.
var patience = testnet.Patience(10 * time.Second)

// lab is a router (the test's own thread) with four hosts around it.
type lab struct {
	t                             *testing.T
	router                        *netlink.Handle
	client, client2, dmz, outside *node
}

// userRules are the router's own: masquerading and port forwards of TCP 8080
// and UDP 8081 to the client's ports 80 and 81.
const userRules = `
table ip user_nat {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr 198.51.100.2 tcp dport 8080 dnat to 192.168.50.11:80
		ip daddr 198.51.100.2 udp dport 8081 dnat to 192.168.50.11:81
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname "wan0" masquerade
	}
}
`

func newLab(t *testing.T) *lab {
	t.Helper()
	t.Parallel()
	enterFreshNetNS(t)
	router, err := prepareNode()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(router.Close)
	l := &lab{t: t, router: router, client: newNode(t), client2: newNode(t), dmz: newNode(t), outside: newNode(t)}
	for _, link := range []struct {
		node           *node
		name           string
		router4, host4 string
		router6, host6 string
	}{
		{l.client, "lan0", lan4, client4, lan6, client6},
		{l.client2, "lan1", "192.168.60.1", client24, "2001:db8:60::1", client26},
		{l.dmz, "dmz0", "172.16.7.1", dmz4, "2001:db8:7::1", dmz6},
		{l.outside, "wan0", wan4, outside4, wan6, outside6},
	} {
		err := connect(router, link.node, link.name, []string{link.router4 + "/24", link.router6 + "/64"}, []string{link.host4 + "/24", link.host6 + "/64"})
		if err != nil {
			t.Fatalf("connect %s: %v", link.name, err)
		}
		for _, gateway := range []string{link.router4, link.router6} {
			if err := link.node.nl.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
				t.Fatalf("add default route by %s: %v", gateway, err)
			}
		}
	}
	for _, gateway := range []string{outside4, outside6} {
		if err := router.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
			t.Fatalf("add the router's default route by %s: %v", gateway, err)
		}
	}
	for _, addr := range []string{client4, client6, client24, client26, dmz4, dmz6, outside4, outside6} {
		l.eventually(addr+" is reachable", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			_, err := ping(ctx, nil, addr)
			return err == nil
		})
	}
	load(t, userRules)
	return l
}

// prepareNode readies the calling thread's namespace: it forwards, filters no
// source and uses IPv6 addresses at once.
func prepareNode() (*netlink.Handle, error) {
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/default/accept_dad"} {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte("0"), 0); err != nil {
			return nil, err
		}
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return nl, nl.LinkSetUp(lo)
}

// connect makes a veth pair: name on the router, eth0 in the node.
func connect(router *netlink.Handle, n *node, name string, routerAddrs, hostAddrs []string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns)}
	if err := router.LinkAdd(veth); err != nil {
		return err
	}
	return errors.Join(bringUp(router, name, routerAddrs), bringUp(n.nl, "eth0", hostAddrs))
}

func bringUp(nl *netlink.Handle, name string, addrs []string) error {
	link, err := nl.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := nl.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return nl.LinkSetUp(link)
}

// plan is what torbpf would have planned for the lab.
func (l *lab) plan() *plan.Plan {
	p := minimalPlan()
	p.LANs = []plan.LAN{
		{Name: "lan0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.50.0/24"), netip.MustParsePrefix("2001:db8:50::/64")}},
		{Name: "lan1", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.60.0/24"), netip.MustParsePrefix("2001:db8:60::/64")}},
	}
	p.Onion4 = netip.MustParsePrefix("10.192.0.0/10")
	p.Onion6 = netip.MustParsePrefix("fd7a:6f6e:696f::/48")
	for name, prefixes := range map[string][]string{
		"lan0": {"192.168.50.0/24", "2001:db8:50::/64"},
		"lan1": {"192.168.60.0/24", "2001:db8:60::/64"},
		"dmz0": {"172.16.7.0/24", "2001:db8:7::/64"},
	} {
		for _, prefix := range prefixes {
			p.Local = append(p.Local, plan.LocalSubnet{Name: name, Prefix: netip.MustParsePrefix(prefix)})
		}
	}
	return p
}

// apply is Apply ten minutes ago.
func (l *lab) apply(p *plan.Plan) {
	l.t.Helper()
	if err := Apply(p); err != nil {
		l.t.Fatal(err)
	}
	forgetOldFlows(l.t)
}

// forgetOldFlows is what ten minutes do: no flow is older than our table any more.
func forgetOldFlows(t *testing.T) {
	t.Helper()
	nft(t, "", "flush", "set", "inet", plan.Table, setSettle)
	if out, err := runNft("", "flush", "set", "inet", plan.Table, setClientSettle); err != nil && !strings.Contains(out, "No such file") {
		t.Fatal(out)
	}
}

// classify stands in for the tc program: what the match covers gets the class
// and, if it is one, some Tor instance, ahead of conntrack. Each call replaces
// the one before.
func (l *lab) classify(match string, class abi.Verdict) {
	l.t.Helper()
	instance := 5
	if class == abi.VerdictNone {
		instance = 0
	}
	l.classifyAs(match, class, instance)
}

// classifyAs is classify with one instance.
func (l *lab) classifyAs(match string, class abi.Verdict, instance int) {
	l.t.Helper()
	mark := minimalPlan().Mark
	bits := mark.Class(uint32(class)) | mark.Instance(instance)
	load(l.t, fmt.Sprintf(`
table inet tc
delete table inet tc
table inet tc {
	chain ingress {
		type filter hook prerouting priority -250;
		%s meta mark set meta mark & 0x00ffffff | %#x
	}
}`, match, bits))
}

// drops returns the count of one guard.
func (l *lab) drops(guard string) uint64 {
	l.t.Helper()
	all, err := Drops()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, d := range all {
		if d.Guard == guard {
			return d.Packets
		}
	}
	l.t.Fatalf("no counter %s", guard)
	return 0
}

// eventually waits for a condition.
func (l *lab) eventually(what string, condition func() bool) {
	l.t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-poll.C {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// mustAnswer asks and wants to hear from the named server.
func (l *lab) mustAnswer(want string, from *node, network, to string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := ask(ctx, from, network, "", to)
	if err != nil || got != want {
		l.t.Errorf("%s to %s: answered by %q (%v), want %q", network, to, got, err, want)
	}
}

// mustDrop runs something until the guard has counted a packet more, ends it
// then, and wants it to have failed.
func (l *lab) mustDrop(guard, what string, run func(context.Context) (string, error)) {
	l.t.Helper()
	before := l.drops(guard)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	type result struct {
		answer string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := run(ctx)
		done <- result{answer, err}
	}()
	l.eventually(what+" is counted as "+guard, func() bool { return l.drops(guard) > before })
	cancel()
	if r := <-done; r.err == nil {
		l.t.Errorf("%s: answered %q, want it dropped", what, r.answer)
	}
}

// rename gives an interface of the router another name. Going down for it, the
// interface loses its IPv6 address.
func (l *lab) rename(from, to, addr6 string) {
	l.t.Helper()
	link, err := l.router.LinkByName(from)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := errors.Join(l.router.LinkSetDown(link), l.router.LinkSetName(link, to), bringUp(l.router, to, []string{addr6 + "/64"})); err != nil {
		l.t.Fatalf("rename %s: %v", from, err)
	}
}

// route leads the router's packets for one address elsewhere.
func (l *lab) route(addr, gateway string) {
	l.t.Helper()
	a := netip.MustParseAddr(addr)
	dst := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
	if err := l.router.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway)}); err != nil {
		l.t.Fatalf("route %s by %s: %v", addr, gateway, err)
	}
}
