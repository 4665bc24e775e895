package sentry

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

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

func TestAReplyThatNobodyTakesEndsTheConnection(t *testing.T) {
	server, peer := net.Pipe()
	defer peer.Close()
	out := &stream{conn: server, timeout: fast}
	within(t, "giving up", func() {
		if out.send([]byte("a reply")) {
			t.Error("it was sent to nobody")
		}
	})
	if _, err := peer.Write([]byte("more")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection goes on: %v", err)
	}
}

// TestClientThatDoesNotReadIsLetGo: what it has room for no more it may not even hear, so its questions may
// stop before its replies do.
func TestClientThatDoesNotReadIsLetGo(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newResolver(t, quick(func(l *limits) { l.write = fast }))
	conn := r.connect(t, link{"tcp", device4, router4})
	must(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	message := bytes.Repeat(append([]byte{0, 29}, typed(dns.TypeMX)()...), 1000)
	eventually(t, "the connection is accepted", func() bool { return r.connections.inUse() == 1 })
	var writer sync.WaitGroup
	defer writer.Wait()
	defer conn.Close()
	writer.Go(func() {
		// When it hears of the end is the kernel's to say, whose window is closed.
		for err := error(nil); err == nil; {
			_, err = conn.Write(message)
		}
	})
	eventually(t, "the connection is given up", func() bool { return r.connections.inUse() == 0 })
}
