package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The machine has own4 and own6; beyond its only link are an origin and two resolvers,
// of which the system's configuration names the wrong one.
var (
	own4      = netip.MustParseAddr("198.51.100.1")
	own6      = netip.MustParseAddr("2001:db8::1")
	origin4   = netip.MustParseAddr("198.51.100.5")
	origin6   = netip.MustParseAddr("2001:db8::5")
	resolver  = netip.MustParseAddr("198.51.100.53")
	systems   = netip.MustParseAddr("198.51.100.54")
	onions    = netip.MustParsePrefix("10.192.0.0/10")
	anyPrefix = netip.MustParsePrefix("203.0.113.0/24") // routed to this machine

	zone = map[string][]netip.Addr{
		"origin.example.": {origin4, origin6},
		"four.example.":   {origin4},
		"six.example.":    {origin6},
		"loop.example.":   {netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()},
		"own.example.":    {own4, own6},
		"onion.example.":  {netip.MustParseAddr("10.192.0.7")},
	}
)

const (
	port     = 3128
	echoPort = 7
)

// world is what lies beyond the link.
type world struct {
	fd      int
	handler http.HandlerFunc

	mu    sync.Mutex
	asked map[netip.Addr][]string // names, by the resolver
	conns int                     // that the origin has taken for HTTP
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{fd: newNamespace(t), asked: make(map[netip.Addr][]string)}
	w.handler = func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "origin") }
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(w.fd),
	}))
	up(t, "lo")
	up(t, "eth0", own4, own6)
	w.do(t, func() {
		up(t, "lo") // by which the net package finds out whether there is IPv6
		up(t, "eth0", origin4, origin6, resolver, systems)
		w.serveHTTP(t)
		w.serveEcho(t)
		for _, addr := range []netip.Addr{resolver, systems} {
			w.serveDNS(t, addr)
		}
	})
	for _, addr := range []netip.Addr{origin4, origin6} {
		eventually(t, fmt.Sprintf("%v is reached", addr), func() bool {
			conn, err := net.Dial("tcp", netip.AddrPortFrom(addr, echoPort).String())
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	replace(t, "/etc/resolv.conf", fmt.Sprintf("search wrong.example\nnameserver %v\n", systems))
	return w
}

func newNamespace(t *testing.T) int {
	t.Helper()
	made := make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread stays in the new namespace
		fd := -1
		if unix.Unshare(unix.CLONE_NEWNET) == nil {
			fd, _ = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- fd
	}()
	fd := <-made
	if fd < 0 {
		t.Fatal("cannot make a network namespace")
	}
	return fd
}

// do runs f on a thread beyond the link; what listens there goes on to do so.
func (w *world) do(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := unix.Setns(w.fd, unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	must(t, <-done)
}

func up(t *testing.T, name string, addrs ...netip.Addr) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(link))
	for _, addr := range addrs {
		bits := 24
		if addr.Is6() {
			bits = 64
		}
		ipnet := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
		must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD}))
	}
}

func (w *world) serveHTTP(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", ":80")
	must(t, err)
	server := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.handler(rw, r) }),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			w.mu.Lock()
			w.conns++
			w.mu.Unlock()
			return ctx
		},
	}
	go func() { _ = server.Serve(l) }()
}

// serveEcho sends back what comes, and ends when the other side does.
func (w *world) serveEcho(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
	must(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
}

func (w *world) serveDNS(t *testing.T, addr netip.Addr) {
	t.Helper()
	packets, err := net.ListenPacket("udp", netip.AddrPortFrom(addr, 53).String())
	must(t, err)
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		name := q.Question[0].Name
		w.mu.Lock()
		w.asked[addr] = append(w.asked[addr], name)
		w.mu.Unlock()
		_ = rw.WriteMsg(answer(q))
	})}
	go func() { _ = server.ActivateAndServe() }()
}

func answer(q *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(q)
	name := q.Question[0].Name
	addrs, known := zone[strings.ToLower(name)]
	if !known {
		reply.Rcode = dns.RcodeNameError
	}
	for _, addr := range addrs {
		header := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
		switch {
		case addr.Is4() && header.Rrtype == dns.TypeA:
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
		case addr.Is6() && header.Rrtype == dns.TypeAAAA:
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
		}
	}
	return reply
}

// config is a proxy's that asks the right resolver.
func config() Config {
	return Config{Port: port, Resolver: resolver, OnionPrefixes: []netip.Prefix{onions}}
}

// browser is an HTTP client that uses the proxy.
func browser(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)})}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// get fetches a page through the proxy.
func get(t *testing.T, client *http.Client, address string) (status int, body string) {
	t.Helper()
	resp, err := client.Get(address)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(text)
}

// dialProxy connects to the proxy, to speak to it by hand.
func dialProxy(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// connect asks for a tunnel, with more behind the request, and reads the proxy's reply.
func connect(t *testing.T, conn net.Conn, to, more string) (*bufio.Reader, *http.Response) {
	t.Helper()
	_, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n%s", to, to, more)
	must(t, err)
	read := bufio.NewReader(conn)
	resp, err := http.ReadResponse(read, &http.Request{Method: http.MethodConnect})
	must(t, err)
	return read, resp
}
