package sentry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// acceptPause keeps a lack of descriptors or memory from becoming a busy loop.
const acceptPause = 100 * time.Millisecond

func (s *server) serveTCP(ctx context.Context) error {
	for {
		accepted, err := s.tcp.Accept()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.complaints.add("cannot accept a connection", err)
			pause(ctx, acceptPause)
			continue
		}
		conn := accepted.(*net.TCPConn)
		peer := peerOf(conn.RemoteAddr())
		if !s.peers.allowed(peer) || !s.connections.acquire(peer) {
			reset(conn)
			continue
		}
		device := s.askers.device(addrPortOf(conn.RemoteAddr()), unix.IPPROTO_TCP, 0)
		s.running.Go(func() {
			defer s.connections.release(peer)
			s.serveConn(ctx, conn, client{peer, device})
		})
	}
}

// reset ends a connection without a word and without leaving a socket behind in
// TIME_WAIT, of which strangers could make any number.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails only where the connection is gone already
	conn.Close()
}

// serveConn answers the queries of one connection as RFC 7766 has it: in
// parallel, in any order, and to the last one even if the client has finished
// sending.
func (s *server) serveConn(ctx context.Context, conn *net.TCPConn, from client) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	out := &stream{conn: conn, timeout: s.limits.write}
	places := make(chan struct{}, s.limits.pipelined)
	var pending sync.WaitGroup
	defer pending.Wait()
	for {
		places <- struct{}{} // whoever asks faster than tor answers, waits
		message, err := s.readMessage(conn)
		if err != nil {
			return
		}
		reply, later := s.handle(message, from, false)
		if later != nil {
			pending.Go(func() {
				defer func() { <-places }()
				out.send(later(ctx))
			})
			continue
		}
		<-places
		// Whoever sends what deserves no answer is no DNS client.
		if reply == nil || !out.send(reply) {
			return
		}
	}
}

// readMessage reads one message with its two bytes of length. A client may be
// silent for a while, but once it has begun it must come to an end: a
// connection fed byte by byte is as cheap to hold as an idle one.
func (s *server) readMessage(conn net.Conn) ([]byte, error) {
	idle := s.limits.idle
	if s.connections.crowded() {
		idle = s.limits.idleCrowded
	}
	var prefix [2]byte
	if err := conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, prefix[:1]); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(s.limits.message)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, prefix[1:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint16(prefix[:])
	if length > maxMessage {
		return nil, fmt.Errorf("refuse a message of %d bytes", length)
	}
	message := make([]byte, length)
	_, err := io.ReadFull(conn, message)
	return message, err
}

// stream writes replies to a connection, one after the other. The first that
// the client does not take in time ends the connection, and with it the wait of
// all others.
type stream struct {
	conn    net.Conn
	timeout time.Duration
	mu      sync.Mutex
}

func (o *stream) send(reply []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	framed := make([]byte, 0, 2+len(reply))
	framed = binary.BigEndian.AppendUint16(framed, uint16(len(reply)))
	framed = append(framed, reply...)
	err := o.conn.SetWriteDeadline(time.Now().Add(o.timeout))
	if err == nil {
		_, err = o.conn.Write(framed)
	}
	if err != nil {
		o.conn.Close()
		return false
	}
	return true
}
