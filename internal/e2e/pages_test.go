package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// openPage asks for a page at a literal address on a connection of its own and
// returns its body as it comes.
func openPage(ctx context.Context, n *testnet.Node, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: n.Dial}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", url, n.Name, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("get %s from %s: %s", url, n.Name, response.Status), response.Body.Close())
	}
	return response.Body, nil
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// page is the address of a server's page that says who asks.
func page(addr netip.Addr) string {
	return "http://" + net.JoinHostPort(addr.String(), "80") + "/"
}

// bytesPage is a page of so many bytes.
func bytesPage(addr netip.Addr, size int) string {
	return fmt.Sprintf("%sbytes?n=%d", page(addr), size)
}

// checkByTor fetches a page that must come by an exit.
func checkByTor(t testing.TB, lab *testnet.Lab, n *testnet.Node, addr netip.Addr) {
	t.Helper()
	if err := byTor(lab, n, addr); err != nil {
		t.Error(err)
	}
}

func byTor(lab *testnet.Lab, n *testnet.Node, addr netip.Addr) error {
	return fetch(n, page(addr), func(a netip.Addr) bool { return lab.Tor.IsExit(a) && a.Is4() == addr.Is4() })
}

// checkDirect fetches a page that must come directly: IPv4 with the router's own
// NAT, IPv6 routed.
func checkDirect(t testing.TB, n *testnet.Node, addr netip.Addr) {
	t.Helper()
	if err := direct(n, addr); err != nil {
		t.Error(err)
	}
}

func direct(n *testnet.Node, addr netip.Addr) error {
	want := testnet.WANRouter4
	if addr.Is6() {
		want = n.IPv6
	}
	return fetch(n, page(addr), func(a netip.Addr) bool { return a == want })
}

// refusedAtOnce wants a connection refused within the time a person notices.
func refusedAtOnce(n *testnet.Node, addr netip.AddrPort) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp", addr.String())
	if err == nil {
		return errors.Join(fmt.Errorf("connect to %v from %s: it succeeded", addr, n.Name), conn.Close())
	}
	if took := time.Since(begin); took > time.Second {
		return fmt.Errorf("connect to %v from %s: refused only after %v: %w", addr, n.Name, took, err)
	}
	return nil
}
