package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestThisMachineIsNotReached, by whichever name or address, and what is not in a network.
func TestThisMachineIsNotReached(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	must(t, netlink.RouteAdd(&netlink.Route{
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, LinkIndex: 1, Scope: netlink.SCOPE_HOST,
		Dst: &net.IPNet{IP: anyPrefix.Addr().AsSlice(), Mask: net.CIDRMask(anyPrefix.Bits(), 32)},
	}))
	trap, err := net.Listen("tcp", ":8080") // all of this machine's addresses
	must(t, err)
	defer trap.Close()
	reached := make(chan string, 100)
	go func() {
		for {
			conn, err := trap.Accept()
			if err != nil {
				return
			}
			reached <- conn.LocalAddr().String()
			conn.Close()
		}
	}()
	start(t, config())
	for host, want := range map[string]error{
		"127.0.0.1": errItself, "127.9.9.9": errItself, "[::1]": errItself, "[::ffff:127.0.0.1]": errItself,
		"0.0.0.0": errItself, "[::]": errItself, "localhost": errItself, "LOCALHOST.": errItself, "a.localhost": errItself,
		own4.String(): errItself, "[" + own6.String() + "]": errItself, "[::ffff:" + own4.String() + "]": errItself,
		"203.0.113.9": errItself, "loop.example": errItself, "own.example": errItself,
		"169.254.1.1": errLink, "[fe80::5%25eth0]": errLink, "224.0.0.1": errLink, "[ff02::1%25eth0]": errLink,
		"255.255.255.255": errLink, "198.51.100.255": errLink,
		"a.onion": errOnion, "onion": errOnion, "A.Onion.": errOnion, "10.192.0.7": errOnion, "onion.example": errOnion,
	} {
		if status, body := get(t, browser(t), "http://"+host+":8080/"); status != http.StatusForbidden || body != want.Error()+"\n" {
			t.Errorf("%s: %d %q", host, status, body)
		}
		read, resp := connect(t, dialProxy(t), host+":8080", "")
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != http.StatusForbidden || !resp.Close || string(body) != want.Error()+"\n" {
			t.Errorf("a tunnel to %s: %s %q", host, resp.Status, body)
		}
		if more, err := io.ReadAll(read); err != nil || len(more) > 0 {
			t.Errorf("a tunnel to %s: it goes on with %q (%v)", host, more, err)
		}
	}
	select {
	case addr := <-reached:
		t.Errorf("%s was reached", addr)
	default:
	}
}

func TestUnreachableDestinationsGiveAPage(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	start(t, config())
	for _, host := range []string{origin4.String() + ":9", "192.0.2.1"} { // refused; no route
		if status, body := get(t, browser(t), "http://"+host+"/"); status != http.StatusBadGateway || !strings.Contains(body, "cannot be reached") {
			t.Errorf("%s: %d %q", host, status, body)
		}
	}
}

// TestTheProxyItselfGivesHelp, and to what is not for a proxy at all.
func TestTheProxyItselfGivesHelp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	start(t, config())
	plain := &http.Client{}
	for address, want := range map[string]int{
		"http://127.0.0.1:3128/": http.StatusOK, "http://[::1]:3128/any": http.StatusOK, "http://localhost:3128/": http.StatusOK,
	} {
		if status, body := get(t, plain, address); status != want || body != help {
			t.Errorf("%s directly: %d %q", address, status, body)
		}
		transport := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse("http://127.0.0.1:3128") }}
		if status, body := get(t, &http.Client{Transport: transport}, address); status != want || body != help {
			t.Errorf("%s through the proxy: %d %q", address, status, body)
		}
		transport.CloseIdleConnections()
	}
	for request, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: rebound.example:3128\r\n\r\n":                 http.StatusBadRequest,
		"GET https://origin.example/ HTTP/1.1\r\nHost: origin.example\r\n\r\n": http.StatusBadRequest,
		"GET ftp://origin.example/ HTTP/1.1\r\nHost: origin.example\r\n\r\n":   http.StatusBadRequest,
		"CONNECT 127.0.0.1:3128 HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n":      http.StatusForbidden,
		"CONNECT :443 HTTP/1.1\r\nHost: :443\r\n\r\n":                          http.StatusBadGateway,
	} {
		if status := ask(t, request); status != want {
			t.Errorf("%q: %d, want %d", request, status, want)
		}
	}
}

// TestOnlyThisMachineIsServed: others find no port, and if somebody's rule leads them to
// it no ear.
func TestOnlyThisMachineIsServed(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	start(t, config())
	w.do(t, func() {
		for _, addr := range []netip.Addr{own4, own6} {
			if conn, err := net.Dial("tcp", netip.AddrPortFrom(addr, port).String()); err == nil {
				conn.Close()
				t.Errorf("%v takes connections from outside", addr)
			}
		}
	})
	wide, err := net.Listen("tcp", ":3129")
	must(t, err)
	l := &listener{TCPListener: wide.(*net.TCPListener), conns: newConns(), slots: make(chan struct{}, 1), ended: make(chan struct{})}
	accepted := make(chan net.Conn)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			accepted <- conn
		}
		close(accepted)
	}()
	w.do(t, func() {
		conn, err := net.Dial("tcp", netip.AddrPortFrom(own4, 3129).String())
		must(t, err)
		defer conn.Close()
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("a stranger read %d bytes", n)
		}
	})
	conn, err := net.Dial("tcp", "127.0.0.1:3129")
	must(t, err)
	defer conn.Close()
	if got := <-accepted; got == nil || got.RemoteAddr().String() != conn.LocalAddr().String() {
		t.Errorf("accepted %v, want %v", got, conn.LocalAddr())
	}
	waiting := make(chan error)
	go func() {
		_, err := l.Accept() // the only slot is taken
		waiting <- err
	}()
	second, err := net.Dial("tcp", "127.0.0.1:3129")
	must(t, err)
	defer second.Close()
	must(t, l.Close())
	if err := <-waiting; err == nil {
		t.Error("it takes connections after its end")
	}
}

// ask sends a request as it is and returns the status of the answer.
func ask(t *testing.T, request string) int {
	t.Helper()
	conn := dialProxy(t)
	_, err := io.WriteString(conn, request)
	must(t, err)
	return status(t, conn)
}

// status reads an answer's first line.
func status(t *testing.T, conn net.Conn) (code int) {
	t.Helper()
	_, err := fmt.Fscanf(conn, "HTTP/1.1 %d", &code)
	must(t, err)
	return code
}
