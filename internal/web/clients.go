package web

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/torbpf/torbpf/internal/access"
)

// client is who is bounded as one: an IPv4 address, or bits6 bits of one of IPv6. A subnet of IPv6 is
// what one customer of an ISP has, and on a LAN it is everybody.
func client(addr string, bits6 int) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Prefix{} // all of these together
	}
	a := ap.Addr().Unmap().WithZone("")
	p, _ := a.Prefix(min(bits6, a.BitLen())) // they fit
	return p
}

// How many bits of an address of IPv6 are one client.
const (
	bitsLAN  = 128
	bitsElse = 64
)

// fair is a listener that keeps those who have many connections from keeping out others: where there are too many,
// whoever has the most loses the oldest.
type fair struct {
	net.Listener
	bits6 int

	mu   sync.Mutex
	all  int
	open map[netip.Prefix][]*fairConn // the oldest first
}

func newFair(l net.Listener, bits6 int) *fair {
	return &fair{Listener: l, bits6: bits6, open: make(map[netip.Prefix][]*fairConn)}
}

// Accept implements net.Listener. It closes what is too much of one client.
func (f *fair) Accept() (net.Conn, error) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &fairConn{Conn: conn, fair: f, who: client(conn.RemoteAddr().String(), f.bits6)}
		entered, loses := f.enter(c)
		if loses != nil {
			loses.Close()
		}
		if entered {
			return c, nil
		}
		conn.Close()
	}
}

// enter takes a connection in; loses is one that has to be closed for it.
func (f *fair) enter(c *fairConn) (entered bool, loses *fairConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open[c.who]) >= maxOfClient {
		return false, nil
	}
	if f.all >= maxClients {
		most := 0
		for _, conns := range f.open {
			if len(conns) > most {
				most, loses = len(conns), conns[0]
			}
		}
		f.remove(loses)
	}
	f.open[c.who] = append(f.open[c.who], c)
	f.all++
	return true, loses
}

func (f *fair) leave(c *fairConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(c)
}

func (f *fair) remove(c *fairConn) {
	i := slices.Index(f.open[c.who], c)
	if i < 0 {
		return // it has made room before
	}
	f.all--
	if f.open[c.who] = slices.Delete(f.open[c.who], i, i+1); len(f.open[c.who]) == 0 {
		delete(f.open, c.who)
	}
}

type fairConn struct {
	net.Conn
	fair *fair
	who  netip.Prefix
}

// Close implements net.Conn.
func (c *fairConn) Close() error {
	c.fair.leave(c)
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

// paced bounds how often a client may ask. Whether a browser is known is for root's side to say, and to bound.
func (a *attempts) paced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del(access.SpentHeader)
		if ok, wait := a.bucket(client(r.RemoteAddr, bitsLAN)).Take(time.Now()); !ok {
			if !access.NamesDevice(r) {
				access.Refuse(w, access.TooOften{Wait: wait})
				return
			}
			r.Header.Set(access.SpentHeader, strconv.Itoa(int(wait/time.Second)))
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
