package sentry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
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
	s, err := newServer(ctx, Config{Tors: []TorConfig{{DNSPort: dnsPort}}, ResolverPort: resolverPort}, []*Gate{gate}, defaultLimits(), silent())
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
