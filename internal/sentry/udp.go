package sentry

import (
	"context"
	"errors"
	"net"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func (s *server) serveUDP(ctx context.Context) error {
	buffer := make([]byte, maxMessage)
	for {
		n, session, err := dns.ReadFromSessionUDP(s.udp, buffer)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.complaints.add("cannot receive a datagram", err)
			pause(ctx, acceptPause)
			continue
		}
		peer := peerOf(session.RemoteAddr())
		if !s.peers.allowed(peer) {
			continue
		}
		device := s.askers.device(addrPortOf(session.RemoteAddr()), unix.IPPROTO_UDP, messageID(buffer[:n]))
		reply, later := s.handle(buffer[:n], client{peer, device}, true)
		switch {
		case later != nil:
			s.running.Go(func() { s.sendUDP(later(ctx), session) })
		case reply != nil:
			s.sendUDP(reply, session)
		}
	}
}

// sendUDP answers from the address that was asked. A datagram that cannot be
// sent is lost like any other: the client asks again.
func (s *server) sendUDP(reply []byte, session *dns.SessionUDP) {
	if _, err := dns.WriteToSessionUDP(s.udp, reply, session); err != nil {
		s.complaints.add("cannot send a reply", err)
	}
}
