package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// refusal says why the proxy does not connect, to whoever reads the page.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

var (
	errItself = refusal{http.StatusForbidden, "This proxy does not connect to this machine itself: what listens there is to be reached without a proxy. Take local addresses out of the proxy's use in your program's settings."}
	errLink   = refusal{http.StatusForbidden, "This proxy connects to no link-local, multicast or broadcast address: reach it without a proxy."}
	errOnion  = refusal{http.StatusForbidden, "This proxy goes around Tor, and .onion is reached by Tor only: use a program that does not go through this proxy."}
	errNoName = refusal{http.StatusForbidden, "This proxy has no resolver to ask for names, so it connects to addresses only. Choose one with `resolver` under [exclusions] in torbpf's configuration, or with `torbpf exclude add --resolver ADDRESS`; it is asked in clear."}
)

// broadcast is of every link, whether or not a route leads to it.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// dialer connects to what programs name, where that is permitted.
type dialer struct {
	named    *net.Dialer // asks the chosen resolver
	resolver netip.Addr
	onions   []netip.Prefix
	conns    *conns
}

func newDialer(cfg Config, lim limits, conns *conns) *dialer {
	d := &dialer{resolver: cfg.Resolver, onions: cfg.OnionPrefixes, conns: conns}
	var plain net.Dialer
	d.named = &net.Dialer{
		Timeout:        lim.connect,
		ControlContext: d.control,
		Resolver: &net.Resolver{
			PreferGo: true,
			// Whomever the system would ask, the chosen one is asked.
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				if !cfg.Resolver.IsValid() {
					return nil, errNoName
				}
				return plain.DialContext(ctx, network, netip.AddrPortFrom(cfg.Resolver, 53).String())
			},
		},
	}
	return d
}

// dial connects to host:port by TCP.
func (d *dialer) dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("read the destination: %w", err)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		if host, err = d.name(host); err != nil {
			return nil, err
		}
	}
	conn, err := d.named.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	return d.conns.add(conn.(*net.TCPConn), nil), nil
}

// name returns a name as the resolver is asked for it: from the root, so that no search
// list of the system's adds to it.
func (d *dialer) name(host string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case name == "":
		return "", errors.New("read the destination: it has no host")
	case below(name, "onion"):
		return "", errOnion
	case below(name, "localhost"):
		return "", errItself
	case !d.resolver.IsValid():
		return "", errNoName
	}
	return name + ".", nil
}

// below tells whether a name is a domain or in it.
func below(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// control judges each address right before a connection to it is made.
func (d *dialer) control(_ context.Context, _, address string, socket syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("read the destination: %w", err)
	}
	var mark int
	var markErr error
	err = socket.Control(func(fd uintptr) {
		mark, markErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK)
	})
	if err := errors.Join(err, markErr); err != nil {
		return fmt.Errorf("read the socket's mark: %w", err)
	}
	return d.permit(to.Addr().Unmap(), uint32(mark))
}

// permit refuses what leads to this machine, by any address that the
// kernel takes for its own, and what is on a link rather than in a network. The mark is the socket's:
// rules of routing may go by it.
func (d *dialer) permit(to netip.Addr, mark uint32) error {
	switch {
	case to.IsLoopback(), to.IsUnspecified():
		return errItself
	case to.IsLinkLocalUnicast(), to.IsMulticast(), to == broadcast:
		return errLink
	case slices.ContainsFunc(d.onions, func(p netip.Prefix) bool { return p.Contains(to) }):
		return errOnion
	}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	if err != nil {
		return fmt.Errorf("look up the route: %w", err)
	}
	for _, route := range routes {
		switch route.Type {
		case unix.RTN_UNICAST:
		case unix.RTN_LOCAL, unix.RTN_ANYCAST:
			return errItself
		default:
			return errLink
		}
	}
	return nil
}
