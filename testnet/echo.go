package testnet

import (
	"io"
	"net"
	"net/netip"
	"sync"
)

// ServeTCPEcho sends back what it receives.
func (s *Services) ServeTCPEcho(addr netip.AddrPort) error {
	ln, err := s.node.Listen("tcp", addr.String())
	if err != nil {
		return err
	}
	server := &tcpEcho{ln: ln, conns: map[net.Conn]bool{}}
	go server.accept(s)
	s.node.lab.closeLater(server)
	return nil
}

type tcpEcho struct {
	ln     net.Listener
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func (e *tcpEcho) accept(s *Services) {
	for {
		conn, err := e.ln.Accept()
		if err != nil {
			return
		}
		if !e.add(conn) {
			conn.Close()
			return
		}
		s.record("tcp-echo", conn.RemoteAddr(), conn.LocalAddr(), "")
		go func() {
			_, _ = io.Copy(conn, conn) // until either side hangs up
			e.remove(conn)
			conn.Close()
		}()
	}
}

func (e *tcpEcho) add(conn net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.conns[conn] = true
	}
	return !e.closed
}

func (e *tcpEcho) remove(conn net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, conn)
}

// Close ends the open connections as well: their sockets keep a namespace alive.
func (e *tcpEcho) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for conn := range e.conns {
		conn.Close()
	}
	return e.ln.Close()
}

// ServeUDPEcho sends datagrams back. A visit is recorded for the first datagram of
// each source only, so that benchmarks may send millions.
func (s *Services) ServeUDPEcho(addr netip.AddrPort) error {
	conn, err := s.node.ListenPacket("udp", addr.String())
	if err != nil {
		return err
	}
	go func() {
		seen := map[netip.AddrPort]bool{}
		buf := make([]byte, 65536)
		for {
			n, peer, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if source := addrPort(peer); !seen[source] {
				seen[source] = true
				s.record("udp-echo", peer, conn.LocalAddr(), "")
			}
			_, _ = conn.WriteTo(buf[:n], peer) // datagrams may be lost
		}
	}()
	s.node.lab.closeLater(conn)
	return nil
}
