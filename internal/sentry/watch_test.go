package sentry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// scriptedTor is a tor whose state a test sets.
type scriptedTor struct {
	mu      sync.Mutex
	percent int
	hung    bool // neither answers nor accepts, and obeys no context
	dead    bool
	dials   int
	polls   int
	thaw    chan struct{}
}

func (s *scriptedTor) set(change func(*scriptedTor)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *scriptedTor) dial(context.Context) (Tor, io.Closer, error) {
	s.mu.Lock()
	s.dials++
	dead, hung := s.dead, s.hung
	s.mu.Unlock()
	if dead {
		return nil, nil, errors.New("connection refused")
	}
	if hung {
		<-s.thaw
	}
	c := &scriptedConn{tor: s, closed: make(chan struct{})}
	return c, c, nil
}

type scriptedConn struct {
	tor    *scriptedTor
	once   sync.Once
	closed chan struct{}
}

func (c *scriptedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *scriptedConn) Bootstrap(context.Context) (int, string, error) {
	c.tor.mu.Lock()
	c.tor.polls++
	percent, dead, hung := c.tor.percent, c.tor.dead, c.tor.hung
	c.tor.mu.Unlock()
	switch {
	case dead:
		return 0, "", io.EOF
	case hung:
		<-c.closed
		return 100, "too late", nil
	}
	return percent, "summary", nil
}

// watching runs Watch on a tor in a bubble of fake time.
func watching(t *testing.T, log io.Writer, test func(*scriptedTor, *Gate)) {
	synctest.Test(t, func(t *testing.T) {
		tor := &scriptedTor{thaw: make(chan struct{})}
		gate := &Gate{open: new(uint32)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			Watch(ctx, tor.dial, gate, WatchOptions{}, slog.New(slog.NewTextHandler(log, nil)))
		}()
		synctest.Wait()
		test(tor, gate)
		cancel()
		<-ended
		close(tor.thaw)
	})
}

// after lets fake time pass and everything settle.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func wantGate(t *testing.T, gate *Gate, open bool, when string) {
	t.Helper()
	if gate.IsOpen() != open {
		t.Errorf("%s: gate open = %v, want %v", when, gate.IsOpen(), open)
	}
}

func TestGateOpensOnlyWhenTorIsBootstrapped(t *testing.T) {
	watching(t, io.Discard, func(tor *scriptedTor, gate *Gate) {
		for _, percent := range []int{0, 10, 75, 99} {
			tor.set(func(s *scriptedTor) { s.percent = percent })
			after(250 * time.Millisecond)
			wantGate(t, gate, false, "while bootstrapping")
		}
		tor.set(func(s *scriptedTor) { s.percent = 100 })
		after(250 * time.Millisecond)
		wantGate(t, gate, true, "bootstrapped")

		tor.set(func(s *scriptedTor) { s.percent = 85 })
		after(time.Second)
		wantGate(t, gate, false, "fallen back")
	})
}

func TestBootstrappedTorIsPolledOnceASecond(t *testing.T) {
	watching(t, io.Discard, func(tor *scriptedTor, _ *Gate) {
		after(10 * time.Second)
		if tor.polls != 41 {
			t.Errorf("%d polls in 10 s of bootstrapping, want 41", tor.polls)
		}
		tor.set(func(s *scriptedTor) { s.percent, s.polls = 100, 0 })
		after(10 * time.Second)
		if tor.polls < 10 || tor.polls > 11 {
			t.Errorf("%d polls in 10 s afterwards, want 10 or 11", tor.polls)
		}
		if tor.dials != 1 {
			t.Errorf("%d connections, want 1", tor.dials)
		}
	})
}

func TestHungTorShutsTheGateAndItsReturnOpensIt(t *testing.T) {
	watching(t, io.Discard, func(tor *scriptedTor, gate *Gate) {
		tor.set(func(s *scriptedTor) { s.percent = 100 })
		after(250 * time.Millisecond)
		wantGate(t, gate, true, "bootstrapped")

		tor.set(func(s *scriptedTor) { s.hung = true })
		after(5900 * time.Millisecond)
		wantGate(t, gate, true, "before the deadline")
		after(200 * time.Millisecond)
		wantGate(t, gate, false, "after the deadline")
		after(time.Minute)
		wantGate(t, gate, false, "a minute later")

		tor.set(func(s *scriptedTor) { s.hung = false })
		after(8 * time.Second)
		wantGate(t, gate, true, "after tor went on")
	})
}

func TestHungConnectShutsTheGate(t *testing.T) {
	watching(t, io.Discard, func(tor *scriptedTor, gate *Gate) {
		tor.set(func(s *scriptedTor) { s.dead = true })
		after(time.Second)
		tor.set(func(s *scriptedTor) { s.dead, s.hung = false, true })
		gate.Set(true) // as a predecessor may have left it
		after(8 * time.Second)
		wantGate(t, gate, false, "nobody accepts")
	})
}

func TestDeadTorShutsTheGateAndIsDialledWithBackoff(t *testing.T) {
	watching(t, io.Discard, func(tor *scriptedTor, gate *Gate) {
		tor.set(func(s *scriptedTor) { s.percent = 100 })
		after(250 * time.Millisecond)
		wantGate(t, gate, true, "bootstrapped")

		tor.set(func(s *scriptedTor) { s.dead, s.dials = true, 0 })
		after(time.Second)
		wantGate(t, gate, false, "dead")
		after(time.Minute)
		if tor.dials < 25 || tor.dials > 36 {
			t.Errorf("%d dials in a minute, want about 30", tor.dials)
		}
		tor.set(func(s *scriptedTor) { s.dead = false })
		after(2 * time.Second)
		wantGate(t, gate, true, "tor is back")
	})
}

func TestEndOfWatchLeavesTheGate(t *testing.T) {
	for _, state := range []string{"idle", "hung", "dead"} {
		var gate *Gate
		watching(t, io.Discard, func(tor *scriptedTor, g *Gate) {
			gate = g
			tor.set(func(s *scriptedTor) { s.percent = 100 })
			after(time.Second)
			tor.set(func(s *scriptedTor) { s.hung, s.dead = state == "hung", state == "dead" })
			if state == "hung" {
				after(time.Second) // a poll is under way
			}
		})
		wantGate(t, gate, true, state)
	}
}

func TestEachStateIsLoggedOnce(t *testing.T) {
	var log strings.Builder
	watching(t, &log, func(tor *scriptedTor, _ *Gate) {
		after(time.Minute)
		tor.set(func(s *scriptedTor) { s.percent = 100 })
		after(time.Minute)
		tor.set(func(s *scriptedTor) { s.dead = true })
		after(time.Hour)
	})
	if lines := strings.Count(log.String(), "\n"); lines != 4 {
		t.Errorf("%d lines, want 4 (0 %%, 100 %%, EOF, refused):\n%s", lines, &log)
	}
}
