package sentry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// upstream asks tor's DNSPort on this machine.
type upstream struct {
	server   netip.AddrPort
	seed     maphash.Seed
	attempts int
	timeout  time.Duration // of one attempt
}

func newUpstream(port uint16, timeout time.Duration) *upstream {
	return &upstream{
		server:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		seed:     maphash.MakeSeed(),
		attempts: 2,
		timeout:  timeout,
	}
}

// source is the address that a device's questions come from. tor keeps clients
// with different addresses on different circuits (IsolateClientAddr); if all
// came from 127.0.0.1, an exit could tell what the devices of a household ask
// together. Addresses are taken from the upper half of 127.0.0.0/8, where no
// other service lives, and keyed, so that they say nothing of the device.
func (u *upstream) source(peer netip.Addr) netip.Addr {
	key := peer.As16() // without the zone: a device has one address on one link
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(maphash.Bytes(u.seed, key[:])))
	b[0] = 127
	b[1] |= 128
	if b == [4]byte{127, 255, 255, 255} {
		b[3]-- // the last one is the broadcast address
	}
	return netip.AddrFrom4(b)
}

// source is that of one of the tors.
func (s *server) source(instance int, device netip.Addr) netip.Addr {
	return s.tors[instance].upstream.source(device)
}

// ask returns tor's answer. Only what tor knows counts as one: that there are
// such records, none, or no such name. All else is an error.
func (u *upstream) ask(ctx context.Context, q dns.Question, peer netip.Addr) (*dns.Msg, error) {
	answer, err := u.exchange(ctx, q, peer)
	if err != nil {
		return nil, fmt.Errorf("ask tor's DNSPort: %w", err)
	}
	switch {
	case !answer.Response || len(answer.Question) != 1 || !sameQuestion(answer.Question[0], q):
		return nil, errors.New("ask tor's DNSPort: it answered another question")
	case answer.Truncated:
		return nil, errors.New("ask tor's DNSPort: it sent half an answer")
	case answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("ask tor's DNSPort: it answered %s", dns.RcodeToString[answer.Rcode])
	}
	return answer, nil
}

// exchange sends the question, again where no answer comes in time: under load
// the kernel drops datagrams even on the loopback. Both attempts share a socket
// and an id, so a late answer to the first is an answer.
func (u *upstream) exchange(ctx context.Context, q dns.Question, peer netip.Addr) (*dns.Msg, error) {
	client := dns.Client{
		Net:     "udp4",
		UDPSize: maxMessage,
		Timeout: u.timeout,
		Dialer:  &net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(u.source(peer), 0))},
	}
	conn, err := client.DialContext(ctx, u.server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The client heeds the deadline of a context, not its end.
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	query := &dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id(), RecursionDesired: true}, Question: []dns.Question{q}}
	var answer *dns.Msg
	for range u.attempts {
		answer, _, err = client.ExchangeWithConnContext(ctx, query, conn)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return answer, err
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// complete turns tor's answer into the reply, with the name spelt as the client
// spelt it: some check the case of what they get back.
func complete(reply, answer *dns.Msg) {
	reply.Rcode = answer.Rcode
	reply.Answer = answer.Answer
	asked := reply.Question[0].Name
	for _, rr := range reply.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, asked) {
			h.Name = asked
		}
	}
}
