package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDefaultLimitsKeepTheirProportions(t *testing.T) {
	l := defaultLimits()
	const others = 200 // sockets that ask the resolver, what Go itself has open
	if n := l.clients*filesPerClient + l.spare + others; n > maxOpenFiles {
		t.Errorf("%d descriptors, but %d may be open", n, maxOpenFiles)
	}
	if l.grace >= 5*time.Second {
		t.Error("the proxy is killed before its grace is over")
	}
}

// TestClientsBeyondTheLimitWait until another ends.
func TestClientsBeyondTheLimitWait(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	start(t, config(), func(l *limits) { l.clients = 2 })
	echo := fmt.Sprintf("%v:%d", origin4, echoPort)
	for range 20 { // each tunnel gives its place back
		first, second, third := dialProxy(t), dialProxy(t), dialProxy(t)
		connect(t, first, echo, "")
		connect(t, second, echo, "")
		_, err := fmt.Fprintf(third, "GET http://%v/ HTTP/1.1\r\nHost: %v\r\nConnection: close\r\n\r\n", origin4, origin4)
		must(t, err)
		must(t, third.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
		if _, err := third.Read(make([]byte, 1)); err == nil {
			t.Fatal("a third client is served")
		}
		must(t, third.SetReadDeadline(time.Time{}))
		must(t, first.Close())
		if got := status(t, third); got != http.StatusOK {
			t.Fatalf("after the end of another: %d", got)
		}
		third.Close()
		second.Close()
	}
}

func TestIdleTunnelsEnd(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	const limit, jiffy = 300 * time.Millisecond, 10 * time.Millisecond // the kernel counts in those
	start(t, config(), func(l *limits) { l.tunnelIdle, l.sweep = limit, 10*time.Millisecond })
	began := time.Now()
	read, _ := connect(t, dialProxy(t), fmt.Sprintf("%v:%d", origin4, echoPort), "")
	_, err := io.Copy(io.Discard, read) // would wait for ever
	must(t, err)
	if after := time.Since(began); after < limit-jiffy {
		t.Errorf("an idle tunnel ended after %v", after)
	}
}

// TestBusyTunnelsLiveOn: a byte either way is enough.
func TestBusyTunnelsLiveOn(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	all := newConns()
	d := newDialer(config(), defaultLimits(), all)
	open := func() *conn {
		c, err := d.dial(t.Context(), "tcp", netip.AddrPortFrom(origin4, echoPort).String())
		must(t, err)
		return c.(*conn)
	}
	busy, idle := open(), open()
	const limit = time.Second
	eventually(t, "nothing has come for a second", func() bool {
		for _, c := range []*conn{busy, idle} {
			if since, err := c.idle(); err != nil || since < limit {
				return false
			}
		}
		return true
	})
	_, err := io.WriteString(busy, "x")
	must(t, err)
	all.closeIdle(limit)
	if left := all.list(); len(left) != 1 || left[0] != busy {
		t.Errorf("%d connections are left, want the busy one", len(left))
	}
}

func TestHeadersAreBounded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	long := strings.Repeat("x", 100<<10)
	w.handler = func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("X-Long", long) }
	start(t, config(), func(l *limits) { l.readHeader = 50 * time.Millisecond })
	request := fmt.Sprintf("GET http://%v/ HTTP/1.1\r\nHost: %v\r\n", origin4, origin4)
	if got := ask(t, request+"X-Long: "+long+"\r\n\r\n"); got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a long request: %d", got)
	}
	if got := ask(t, request+"\r\n"); got != http.StatusBadGateway {
		t.Errorf("a long answer: %d", got)
	}
	slow := dialProxy(t)
	_, err := io.WriteString(slow, request)
	must(t, err)
	if _, err := io.Copy(io.Discard, slow); err != nil { // else this waits for ever
		t.Errorf("a request without an end: %v", err)
	}
}

// TestTheEndCutsTunnelsAndLetsRequestsFinish: both are open when the proxy is told to end.
func TestTheEndCutsTunnelsAndLetsRequestsFinish(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	began, finish := make(chan struct{}), make(chan struct{})
	w.handler = func(rw http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(rw, "finished")
	}
	r := start(t, config(), func(l *limits) { l.grace = 5 * time.Second })
	tunnel := dialProxy(t)
	read, _ := connect(t, tunnel, fmt.Sprintf("%v:%d", origin4, echoPort), "")
	body := make(chan string)
	client := browser(t)
	go func() {
		_, text := get(t, client, "http://origin.example/")
		body <- text
	}()
	<-began
	r.end()
	eventually(t, "the port is closed", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(finish)
	if got := <-body; got != "finished" {
		t.Errorf("the request under way got %q", got)
	}
	r.stop(t)
	if n, err := io.Copy(io.Discard, read); err != nil || n > 0 {
		t.Errorf("the tunnel goes on: %d bytes, %v", n, err)
	}
}

// TestTheEndWaitsForNobody longer than its grace.
func TestTheEndWaitsForNobody(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	began, never := make(chan struct{}), make(chan struct{})
	w.handler = func(http.ResponseWriter, *http.Request) {
		close(began)
		<-never
	}
	r := start(t, config(), func(l *limits) { l.grace = 50 * time.Millisecond })
	conn := dialProxy(t)
	_, err := fmt.Fprintf(conn, "GET http://%v/ HTTP/1.1\r\nHost: %v\r\n\r\n", origin4, origin4)
	must(t, err)
	<-began
	before := time.Now()
	r.stop(t)
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("the end took %v", took)
	}
	close(never)
}
