package sentry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// limits bound what devices can make the sentry hold. One question in flight
// costs a socket and some 10 kB, one connection a socket and some 5 kB.
type limits struct {
	connections, connectionsPerPeer int
	questions, questionsPerPeer     int
	pipelined                       int // questions in flight on one connection
	// RFC 7766, section 6.2.3, asks for a few seconds, and for less when short
	// of resources.
	idle, idleCrowded time.Duration
	message           time.Duration // from the first byte of a message to its last
	write             time.Duration // until the client has taken a reply
	// One attempt to ask tor; there are two. Resolving takes tor a second or
	// more and at times a new circuit, but few clients wait longer.
	attempt time.Duration
	local   time.Duration // in all, to ask the router's own resolver once
	chosen  time.Duration // to ask the resolver for excluded names, by UDP or by TCP
}

func defaultLimits() limits {
	return limits{
		connections:        256,
		connectionsPerPeer: 32,
		questions:          256,
		questionsPerPeer:   64,
		pipelined:          32,
		idle:               10 * time.Second,
		idleCrowded:        2 * time.Second,
		message:            3 * time.Second,
		write:              3 * time.Second,
		attempt:            5 * time.Second,
		local:              500 * time.Millisecond,
		chosen:             3 * time.Second,
	}
}

// server answers DNS on the resolver port. It is not the library's server, which
// answers the queries of a connection one by one (a lookup takes tor a second,
// and RFC 7766 wants them in parallel), waits for slow readers for ever and
// starts as many goroutines as there come datagrams.
type server struct {
	tors        tors
	askers      *askers // nil: whose a question is does not matter
	peers       peers
	names       names
	local       *localResolver
	domains     *domains
	limits      limits
	connections *limiter
	questions   *limiter
	complaints  complaints

	tcp     net.Listener
	udp     *net.UDPConn
	running sync.WaitGroup // connections, and questions that came by UDP
}

// newServer listens on the wildcard address: where a redirected packet arrives
// is for the kernel to choose, and changes with the addresses of the interface.
func newServer(ctx context.Context, cfg Config, gates []*Gate, lim limits, log *slog.Logger) (*server, error) {
	domains, err := newDomains(cfg, lim.chosen)
	if err != nil {
		return nil, err
	}
	var who *askers
	if cfg.tellsDevices() {
		if who, err = openAskers(cfg.AskersFD); err != nil {
			return nil, err
		}
	}
	s := &server{
		domains:     domains,
		tors:        newTors(cfg, gates, lim.attempt),
		askers:      who,
		peers:       peers{prefixes: cfg.LANPrefixes, lans: cfg.LANs},
		names:       names{lans: cfg.LANPrefixes, onions: cfg.OnionPrefixes, chosen: func(name string) bool { return domains.match(name) != "" }},
		local:       newLocalResolver(cfg, lim.local),
		limits:      lim,
		connections: newLimiter(lim.connections, lim.connectionsPerPeer),
		questions:   newLimiter(lim.questions, lim.questionsPerPeer),
		complaints:  complaints{log: log},
	}
	address := ":" + strconv.Itoa(int(cfg.ResolverPort))
	lc := net.ListenConfig{Control: reportDestination}
	if s.tcp, err = lc.Listen(ctx, "tcp", address); err != nil {
		return nil, fmt.Errorf("listen on the resolver port (choose another if it is taken): %w", err)
	}
	udp, err := lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		s.tcp.Close()
		return nil, fmt.Errorf("listen on the resolver port (choose another if it is taken): %w", err)
	}
	s.udp = udp.(*net.UDPConn)
	return s, nil
}

// reportDestination has the kernel tell where each datagram was sent to. An
// answer from another address would be no answer, and conntrack would not undo
// the redirect.
func reportDestination(network, _ string, c syscall.RawConn) error {
	var optErr error
	err := c.Control(func(fd uintptr) {
		switch network {
		case "udp6": // takes IPv4 as well; the kernel tells by the same message
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		case "udp4": // a kernel without IPv6
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	if err == nil {
		err = optErr
	}
	return err
}

// serve answers until ctx ends, and returns when nothing is in flight any more.
func (s *server) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		s.tcp.Close()
		s.udp.Close()
	})()
	var g errgroup.Group
	g.Go(func() error { return s.serveTCP(ctx) })
	g.Go(func() error { return s.serveUDP(ctx) })
	err := g.Wait()
	s.running.Wait()
	return err
}

// handle rules on a message: either there is a reply at once, or it takes
// asking someone, which later does, or both are nil and the message gets no answer.
// A later that is not nil must be called: it holds a place among the questions.
func (s *server) handle(message []byte, from client, udp bool) (reply []byte, later func(context.Context) []byte) {
	r := judge(message, s.tors.of(from).gate.IsOpen(), s.namesFor(from.addr))
	if r.reply == nil {
		return nil, nil
	}
	if !r.ask {
		return r.pack(udp), nil
	}
	if !s.questions.acquire(from.addr) {
		r.reply.Rcode = dns.RcodeServerFailure
		return r.pack(udp), nil
	}
	return nil, func(ctx context.Context) []byte {
		defer s.questions.release(from.addr)
		s.complete(ctx, r, from)
		return r.pack(udp)
	}
}

// namesFor says what names mean to a peer: to this machine itself none is excluded, since
// those are of LANs.
func (s *server) namesFor(peer netip.Addr) names {
	n := s.names
	if peer.IsLoopback() {
		n.chosen = func(string) bool { return false }
	}
	return n
}

// complete asks who answers for the name. What the router's resolver does not know
// does not exist: to ask tor would tell an exit of it. Nor does a local name exist for
// this machine itself, whose resolver may be who asks here.
func (s *server) complete(ctx context.Context, r ruling, from client) {
	question := r.reply.Question[0]
	if r.who == ownRouter {
		r.reply.Authoritative, r.reply.Rcode = true, dns.RcodeNameError
		if from.addr.IsLoopback() {
			return
		}
		if answer := s.local.ask(ctx, question, r.zone); answer != nil {
			complete(r.reply, answer)
		}
		return
	}
	var answer *dns.Msg
	var err error
	if r.who == chosen {
		answer, err = s.domains.ask(ctx, question, from.device)
	} else {
		answer, err = s.tors.of(from).upstream.ask(ctx, question, from.addr)
	}
	if err == nil {
		complete(r.reply, answer)
		return
	}
	if ctx.Err() == nil {
		s.complaints.add("answering SERVFAIL", err)
	}
	r.reply.Rcode = dns.RcodeServerFailure
}

// complaints are what goes wrong while serving: at most one line a minute, since
// devices decide how often it does and the log is never rotated.
type complaints struct {
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time
}

func (c *complaints) add(what string, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.last.IsZero() || now.Sub(c.last) >= time.Minute {
		c.last = now
		c.log.Warn(what, "cause", cause)
	}
}

// client is who asks: by the address that it gives, and the device that its packets are
// from, if that is known.
type client struct {
	addr   netip.Addr
	device abi.DatapathDeviceKey
}

// peerOf returns who is at the other end, unmapped, with its zone.
func peerOf(addr net.Addr) netip.Addr { return addrPortOf(addr).Addr().Unmap() }

func addrPortOf(addr net.Addr) netip.AddrPort {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{} // nobody's address: within no prefix
}
