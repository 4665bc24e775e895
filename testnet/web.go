package testnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Visit is one request to a server of the lab: an HTTP request, an echo
// connection, or the first echo datagram of a source.
type Visit struct {
	Time    time.Time
	Service string // "http", "https", "tcp-echo", "udp-echo"
	Source  netip.AddrPort
	Local   netip.AddrPort
	Path    string // of HTTP requests
}

// Services is a set of servers in one namespace that remember their visitors.
type Services struct {
	node *Node

	mu     sync.Mutex
	visits []Visit
}

// NewServices makes an empty set of servers on n; they end with the lab.
func (l *Lab) NewServices(n *Node) *Services { return &Services{node: n} }

// Visits returns all visits so far.
func (s *Services) Visits() []Visit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Visit(nil), s.visits...)
}

// Reset forgets the visits so far.
func (s *Services) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = nil
}

func (s *Services) record(service string, source, local net.Addr, path string) {
	v := Visit{Time: time.Now(), Service: service, Source: addrPort(source), Local: addrPort(local), Path: path}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = append(s.visits, v)
}

// startServices starts the internet's servers and those behind the router's port
// forwards.
func (l *Lab) startServices(context.Context) error {
	tlsConfig, pool, err := newCertificate()
	if err != nil {
		return err
	}
	l.Web = l.NewServices(l.Internet)
	l.roots = pool
	for _, addr := range []netip.Addr{Web4, Web6, Other4, Other6} {
		err := errors.Join(
			l.Web.ServeHTTP(netip.AddrPortFrom(addr, PortHTTP), nil),
			l.Web.ServeHTTP(netip.AddrPortFrom(addr, PortHTTPS), tlsConfig),
			l.Web.ServeTCPEcho(netip.AddrPortFrom(addr, PortEcho)),
			l.Web.ServeUDPEcho(netip.AddrPortFrom(addr, PortEcho)),
			l.Web.ServeUDPEcho(netip.AddrPortFrom(addr, PortHTTPS)),
		)
		if err != nil {
			return err
		}
	}
	l.Forwarded = l.NewServices(l.Client1)
	if err := l.Forwarded.ServeHTTP(netip.AddrPortFrom(l.Client1.IPv4, PortForwardTCP), nil); err != nil {
		return err
	}
	return l.Forwarded.ServeUDPEcho(netip.AddrPortFrom(l.Client1.IPv4, PortForwardUDP))
}

// ServeHTTP starts a web server. "/" answers with the peer's address and a line
// feed, "/bytes?n=N" with N bytes. With a TLS configuration it speaks HTTPS.
func (s *Services) ServeHTTP(addr netip.AddrPort, tlsConfig *tls.Config) error {
	ln, err := s.node.Listen("tcp", addr.String())
	if err != nil {
		return err
	}
	service := "http"
	if tlsConfig != nil {
		service = "https"
		ln = tls.NewListener(ln, tlsConfig)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, s.visitor(service, r).Addr())
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		s.visitor(service, r)
		n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, zeros{}, n) // until the client hangs up
	})
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	go func() { _ = server.Serve(ln) }() // until closed
	s.node.lab.closeLater(server)
	return nil
}

func (s *Services) visitor(service string, r *http.Request) netip.AddrPort {
	source, err := net.ResolveTCPAddr("tcp", r.RemoteAddr) // literal: no lookup
	if err != nil {
		return netip.AddrPort{}
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	s.record(service, source, local, r.URL.Path)
	return addrPort(source)
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// addrPort turns a TCP or UDP address into its value form, IPv4 as IPv4.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
