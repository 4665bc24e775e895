package web

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/torbpf/torbpf/internal/access"
)

// client is who is bounded as one: an IPv4 address, or a subnet of IPv6, of which a device has
// as many addresses as it likes.
func client(addr string) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Prefix{} // all of these together
	}
	const bits4, bits6 = 32, 64
	a := ap.Addr().Unmap().WithZone("")
	bits := bits6
	if a.Is4() {
		bits = bits4
	}
	p, _ := a.Prefix(bits) // they fit
	return p
}

// fair is a listener that keeps one client from taking all connections there are.
type fair struct {
	net.Listener
	mu   sync.Mutex
	open map[netip.Prefix]int
}

func newFair(l net.Listener) *fair { return &fair{Listener: l, open: make(map[netip.Prefix]int)} }

// Accept implements net.Listener. It closes what is too much of one client.
func (f *fair) Accept() (net.Conn, error) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := client(conn.RemoteAddr().String())
		if f.enter(who) {
			return &fairConn{Conn: conn, leave: func() { f.leave(who) }}, nil
		}
		conn.Close()
	}
}

func (f *fair) enter(who netip.Prefix) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[who] >= maxOfClient {
		return false
	}
	f.open[who]++
	return true
}

func (f *fair) leave(who netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[who]--; f.open[who] == 0 {
		delete(f.open, who)
	}
}

type fairConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close implements net.Conn.
func (c *fairConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}

// Attempts at the password of one client, so that nobody uses up those of all, which
// internal/access counts.
const (
	attemptBurst = 5
	attemptPause = 20 * time.Second
	maxAttempts  = 4096 // clients that are known to have tried
)

// attempts counts them.
type attempts struct {
	mu sync.Mutex
	of map[netip.Prefix]*access.Bucket
}

func newAttempts() *attempts { return &attempts{of: make(map[netip.Prefix]*access.Bucket)} }

// paced bounds how often a client may ask.
func (a *attempts) paced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ok, wait := a.bucket(client(r.RemoteAddr)).Take(time.Now()); !ok {
			access.Refuse(w, access.TooOften{Wait: wait})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *attempts) bucket(who netip.Prefix) *access.Bucket {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.of[who]; b != nil {
		return b
	}
	if len(a.of) >= maxAttempts {
		for other, b := range a.of {
			if b.Full(time.Now()) {
				delete(a.of, other)
			}
		}
	}
	if len(a.of) >= maxAttempts {
		who = netip.Prefix{} // together with all that are too many
	}
	if a.of[who] == nil {
		a.of[who] = access.NewBucket(attemptBurst, attemptPause)
	}
	return a.of[who]
}
