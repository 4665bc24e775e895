package sentry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// fast is a timeout that a test may wait for, and soon a bound that it must
// stay within even on a busy machine.
const (
	fast = 100 * time.Millisecond
	soon = 5 * time.Second
)

// within checks how long f took.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > soon {
		t.Errorf("%s took %v", what, took)
	}
}

func (l *limiter) inUse() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

func TestLimiterCountsByPeerAndInAll(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")
	l := newLimiter(3, 2)
	for i, step := range []struct {
		peer netip.Addr
		want bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {c, false}} {
		if got := l.acquire(step.peer); got != step.want {
			t.Fatalf("step %d: acquire(%v) = %v", i, step.peer, got)
		}
	}
	if !l.crowded() {
		t.Error("full, and not crowded")
	}
	l.release(a)
	if !l.acquire(c) {
		t.Error("what was given back cannot be taken")
	}
	l.release(a)
	l.release(b)
	l.release(c)
	if l.total != 0 || len(l.byPeer) != 0 || l.crowded() {
		t.Errorf("something is left: %+v", l)
	}
}

func TestConnectionsAreBoundedByDeviceAndInAll(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.connectionsPerPeer, l.connections = 2, 3 }))
	query := question("www.example.", dns.TypeMX)
	// works connects and reports whether the connection is served.
	works := func(from netip.Addr) (net.Conn, bool) {
		t.Helper()
		conn, err := r.dial(t, "tcp", from, netip.AddrPortFrom(router4, resolverPort))
		if errors.Is(err, unix.ECONNRESET) {
			return nil, false
		}
		must(t, err)
		client := &dns.Conn{Conn: conn}
		must(t, conn.SetDeadline(time.Now().Add(soon)))
		if client.WriteMsg(query) != nil {
			return nil, false
		}
		_, err = client.ReadMsg()
		return conn, err == nil
	}
	first, ok1 := works(device4)
	_, ok2 := works(device4)
	_, ok3 := works(device4)
	if !ok1 || !ok2 || ok3 {
		t.Errorf("three connections of a device: %v %v %v, want two served", ok1, ok2, ok3)
	}
	if _, ok := works(another4); !ok {
		t.Error("another device is not served")
	}
	if _, ok := works(another4); ok {
		t.Error("a fourth connection in all is served")
	}
	must(t, first.Close())
	eventually(t, "a place is free again", func() bool {
		_, ok := works(device4)
		return ok
	})
}

func TestIdleAndHalfFedConnectionsAreEnded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.idle, l.message = fast, fast }))
	for what, begin := range map[string][]byte{
		"silent":                 nil,
		"half a length":          {0},
		"length only":            {0, 40},
		"half a message":         {0, 40, 1, 2, 3},
		"length of nothing":      {0, 0},
		"message beyond limits":  append([]byte{maxMessage >> 8, 1}, append(typed(dns.TypeMX)(), make([]byte, maxMessage+1-29)...)...),
		"longest possible":       {255, 255},
		"served, and then quiet": append([]byte{0, 29}, typed(dns.TypeMX)()...),
	} {
		conn := r.connect(t, link{"tcp", device4, router4})
		within(t, what, func() {
			_, err := conn.Write(begin)
			must(t, err)
			if strings.HasPrefix(what, "served") {
				receive(t, conn)
			}
			_ = wantEnded(t, conn, what)
		})
	}
}

func TestIdleConnectionsMakeRoomWhenCrowded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.connections, l.idle, l.idleCrowded = 3, time.Hour, fast }))
	first := r.connect(t, link{"tcp", device4, router4})
	eventually(t, "the first is served", func() bool { return r.connections.inUse() == 1 })
	second := r.connect(t, link{"tcp", another4, router4})
	within(t, "ending one of two idle connections, of three possible", func() {
		_ = wantEnded(t, second, "second")
	})
	if reply := ask(t, first, question("www.example.", dns.TypeA)); reply.Rcode != ok {
		t.Errorf("the first, idle while there was room, got %v", reply)
	}
}

func TestFastClientWaitsForItsOwnQuestions(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.pipelined, l.attempt = 2, fast }))
	r.dnsport.set(func(*dns.Msg) *dns.Msg { return nil })
	conn := r.connect(t, link{"tcp", device4, router4})
	const queries = 10
	for range queries {
		transmit(t, conn, typed(dns.TypeA)())
	}
	for i := range queries {
		if reply := receive(t, conn); reply.Rcode != servFail {
			t.Errorf("got %v", reply)
		}
		// Each answered one was asked twice, and up to two more are under way,
		// or four when their places have just changed hands.
		if asked := len(r.dnsport.sources()); asked > 2*(i+1+4) {
			t.Errorf("tor was asked %d times before answer %d", asked, i+1)
		}
	}
}

func TestComplaintsAreOneAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		c := complaints{log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 100 {
			c.add("what", errors.New("cause"))
			<-time.After(3 * time.Second)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 5 {
			t.Errorf("%d lines in five minutes:\n%s", lines, &log)
		}
	})
}

func TestConnectionFedByteByByteIsEnded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.idle, l.message = fast, fast }))
	conn := r.connect(t, link{"tcp", device4, router4})
	_, err := conn.Write([]byte{maxMessage >> 8, 0})
	must(t, err)
	within(t, "ending a slow feeder", func() {
		for sent := 0; sent < maxMessage; sent++ {
			if _, err := conn.Write([]byte{0}); err != nil {
				return
			}
			// Feed on only as fast as keeps a naive idle timer from expiring.
			must(t, conn.SetReadDeadline(time.Now().Add(fast/20)))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.EAGAIN) && !isTimeout(err) {
				return
			}
		}
		t.Error("the whole message was taken")
	})
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

func TestClientThatDoesNotReadIsLetGo(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.write = fast }))
	conn := r.connect(t, link{"tcp", device4, router4})
	must(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	message := bytes.Repeat(append([]byte{0, 29}, typed(dns.TypeMX)()...), 1000)
	within(t, "letting go of a client that does not read", func() {
		must(t, conn.SetWriteDeadline(time.Now().Add(2*soon)))
		for {
			if _, err := conn.Write(message); err != nil {
				if isTimeout(err) {
					t.Error("the server holds on to it")
				}
				return
			}
		}
	})
	eventually(t, "the connection is given up", func() bool { return r.connections.inUse() == 0 })
}

func TestPipelinedQueriesAreAnsweredInParallelAndAfterTheClientsEnd(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(nil))
	// tor never answers the first question; the others must not wait for it.
	r.dnsport.set(func(q *dns.Msg) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "slow") {
			return nil
		}
		return torAnswer(q)
	})
	conn := r.connect(t, link{"tcp", device4, router4})
	names := []string{"slow.example.", "one.example.", "two.example.", "three.example."}
	wanted := make(map[uint16]string)
	for _, name := range names {
		query := question(name, dns.TypeA)
		wanted[query.Id] = name
		b, err := query.Pack()
		must(t, err)
		transmit(t, conn, b)
	}
	must(t, conn.(*net.TCPConn).CloseWrite())
	for i := range names {
		reply := receive(t, conn)
		if wanted[reply.Id] != reply.Question[0].Name {
			t.Errorf("reply to %q has the id of %q", reply.Question[0].Name, wanted[reply.Id])
		}
		delete(wanted, reply.Id)
		isSlow := reply.Question[0].Name == names[0]
		if isSlow != (i == len(names)-1) || isSlow != (reply.Rcode == servFail) {
			t.Errorf("reply %d: %v", i, reply)
		}
	}
	_ = wantEnded(t, conn, "after the last reply")
}

func TestQuestionsInFlightAreBounded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.questions, l.questionsPerPeer, l.attempt = 3, 2, 2*time.Second }))
	r.dnsport.set(func(*dns.Msg) *dns.Msg { return nil })
	query := typed(dns.TypeA)()
	fill := func(from netip.Addr, n int) {
		for range n {
			transmit(t, r.connect(t, link{"udp", from, router4}), query)
		}
	}
	fill(device4, 2)
	eventually(t, "two questions are in flight", func() bool { return r.questions.inUse() == 2 })
	for _, network := range []string{"udp", "tcp"} {
		conn := r.connect(t, link{network, device4, router4})
		start := time.Now()
		transmit(t, conn, query)
		if reply := receive(t, conn); reply.Rcode != servFail || time.Since(start) > time.Second {
			t.Errorf("%s: %v after %v", network, reply, time.Since(start))
		}
	}
	fill(another4, 1)
	eventually(t, "three questions are in flight", func() bool { return r.questions.inUse() == 3 })
	conn := r.connect(t, link{"udp", another4, router4})
	transmit(t, conn, query)
	if reply := receive(t, conn); reply.Rcode != servFail {
		t.Errorf("the fourth in all: %v", reply)
	}
	eventually(t, "all are given up", func() bool { return r.questions.inUse() == 0 })
}

func TestLostQuestionIsAskedAgain(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.attempt = fast }))
	asked := 0
	r.dnsport.set(func(q *dns.Msg) *dns.Msg {
		if asked++; asked == 1 {
			return nil
		}
		return torAnswer(q)
	})
	reply := ask(t, r.connect(t, link{"udp", device4, router4}), question("www.example.", dns.TypeA))
	if reply.Rcode != ok || len(r.dnsport.sources()) != 2 {
		t.Errorf("asked %d times: %v", len(r.dnsport.sources()), reply)
	}
}

func TestStoppedOrDeadTorIsAFailureInBoundedTime(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.attempt = fast }))
	must(t, r.dnsport.conn.Close()) // a real process takes its place
	tor := exec.Command("/proc/self/exe", roleDNSPort, strconv.Itoa(dnsPort))
	stdout, err := tor.StdoutPipe()
	must(t, err)
	must(t, tor.Start())
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	want := func(when string, rcode int) {
		t.Helper()
		for _, l := range links {
			conn := r.connect(t, l)
			within(t, when, func() {
				if reply := ask(t, conn, question("www.example.", dns.TypeA)); reply.Rcode != rcode {
					t.Errorf("%s, %v: %v", when, l, reply)
				}
			})
		}
	}
	want("running", ok)
	freeze(t, tor.Process.Pid)
	want("stopped", servFail)
	must(t, tor.Process.Signal(unix.SIGCONT))
	want("going on", ok)
	must(t, tor.Process.Kill())
	_ = tor.Wait() // it was killed
	want("dead", servFail)
}

func TestDefaultLimitsKeepTheirProportions(t *testing.T) {
	l := defaultLimits()
	if l.attempt*time.Duration(newUpstream(1, 0).attempts) > 10*time.Second {
		t.Error("a client gives up before SERVFAIL comes")
	}
	if sockets := l.connections + l.questions + 100; sockets > maxOpenFiles {
		t.Errorf("%d sockets, but %d open files", sockets, maxOpenFiles)
	}
	if l.connectionsPerPeer*4 > l.connections || l.questionsPerPeer*4 > l.questions {
		t.Error("fewer than four devices can take everything")
	}
}

func TestEndOfServingWaitsForNobody(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	gate, err := OpenGate(newGates(t).FD(), 0)
	must(t, err)
	gate.Set(true)
	newFakeDNSPort(t).set(func(*dns.Msg) *dns.Msg { return nil })
	up(t, "lo")
	ctx, cancel := context.WithCancel(context.Background())
	s, err := newServer(ctx, Config{DNSPort: dnsPort, ResolverPort: resolverPort}, gate, defaultLimits(), silent())
	must(t, err)
	served := make(chan error)
	go func() { served <- s.serve(ctx) }()
	for _, network := range []string{"tcp", "udp"} {
		for _, message := range [][]byte{typed(dns.TypeA)(), typed(dns.TypePTR)()} {
			conn, err := net.Dial(network, "127.0.0.1:"+strconv.Itoa(resolverPort))
			must(t, err)
			defer conn.Close()
			transmit(t, conn, message)
		}
	}
	eventually(t, "questions are in flight", func() bool { return s.questions.inUse() == 4 })
	within(t, "ending with questions in flight", func() {
		cancel()
		must(t, <-served)
	})
	if n := s.questions.inUse() + s.connections.inUse(); n != 0 {
		t.Errorf("%d questions and connections are left", n)
	}
	must(t, gate.Close())
}
