package route

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

var timeout = testnet.Patience(5 * time.Second)

// quiet is how long nothing has to come.
const quiet = time.Second / 2

// router is the lab's router, where conntrack is looked at.
type router struct {
	t *testing.T
	*testnet.Lab
}

// newRouter starts a lab whose router tracks both families: the lab itself only
// masquerades IPv4, and what no rule asks about is not tracked.
func newRouter(t *testing.T) router {
	r := router{t, testnet.New(t, testnet.Options{NoTor: true})}
	r.nft("table inet track { chain everything { type filter hook prerouting priority 0; ct state new counter; }; }")
	return r
}

func (r router) flows() []plan.Flow {
	r.t.Helper()
	var list []plan.Flow
	r.do(func() (err error) {
		list, err = Flows()
		return err
	})
	return list
}

func (r router) do(fn func() error) {
	r.t.Helper()
	if err := r.Router.Do(fn); err != nil {
		r.t.Fatal(err)
	}
}

func (r router) run(name string, args ...string) string {
	r.t.Helper()
	out, err := r.Router.Run(r.t.Context(), name, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// nft loads rules of the test's own into the router.
func (r router) nft(rules string) {
	r.t.Helper()
	cmd := r.Router.Command(r.t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("nft: %v: %s", err, out)
	}
}

// open makes a connection that has been answered and returns its flow as it would
// be without address translation.
func (r router) open(from *testnet.Node, network string, to netip.AddrPort) (net.Conn, plan.Flow) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), timeout)
	defer cancel()
	conn, err := from.Dial(ctx, network, to.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	if err := exchange(conn); err != nil {
		r.t.Fatal(err)
	}
	f := plan.Flow{Protocol: unix.IPPROTO_UDP, Src: netip.MustParseAddrPort(conn.LocalAddr().String()), Dst: to}
	if network == "tcp" {
		f.Protocol = unix.IPPROTO_TCP
	}
	f.ReplySrc, f.ReplyDst = f.Dst, f.Src
	return conn, f
}

// exchange sends a byte to an echo server and waits for it.
func exchange(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

// find returns the flow with the ends of f.
func find(flows []plan.Flow, f plan.Flow) (plan.Flow, bool) {
	i := slices.IndexFunc(flows, func(g plan.Flow) bool { return endsOf(&g) == endsOf(&f) })
	if i < 0 {
		return plan.Flow{}, false
	}
	return flows[i], true
}

func echo(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, testnet.PortEcho) }

// ping pings from client1 and returns the flow.
func (r router) ping(to netip.Addr) plan.Flow {
	r.t.Helper()
	if _, err := r.Client1.Run(r.t.Context(), "ping", "-c1", "-W5", to.String()); err != nil {
		r.t.Fatal(err)
	}
	f := plan.Flow{Protocol: unix.IPPROTO_ICMPV6, Src: netip.AddrPortFrom(r.Client1.IPv6, 0), Dst: netip.AddrPortFrom(to, 0)}
	f.ReplySrc, f.ReplyDst = f.Dst, f.Src
	if to.Is4() {
		f.Protocol = unix.IPPROTO_ICMP
		f.Src = netip.AddrPortFrom(r.Client1.IPv4, 0)
		f.ReplyDst = netip.AddrPortFrom(testnet.WANRouter4, 0)
	}
	return f
}

// portForward connects from the internet to client1 and returns the flow.
func (r router) portForward() plan.Flow {
	r.t.Helper()
	conn, err := r.Internet.DialFrom(r.t.Context(), testnet.Core4, "tcp", fmt.Sprintf("%s:%d", testnet.WANRouter4, testnet.PortForwardTCP))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	f := plan.Flow{
		Protocol: unix.IPPROTO_TCP,
		Src:      netip.MustParseAddrPort(conn.LocalAddr().String()),
		Dst:      netip.MustParseAddrPort(conn.RemoteAddr().String()),
		ReplySrc: netip.AddrPortFrom(r.Client1.IPv4, testnet.PortForwardTCP),
		DNAT:     true,
	}
	f.ReplyDst = f.Src
	return f
}

func (r router) waitFor(what string, done func([]plan.Flow) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(timeout); !done(r.flows()); {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited for %s", what)
		}
	}
}
