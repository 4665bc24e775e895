package proxy

import (
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// conns are the open connections, of clients and to origins. A tunnel is nobody's once
// it stands, so they are kept here to end it.
type conns struct {
	mu    sync.Mutex
	open  map[*conn]struct{}
	ended bool // what comes later is closed at once
}

// conn is a connection that takes itself out of conns. What it embeds lets the kernel
// move the bytes of a tunnel (splice), and close one direction only.
type conn struct {
	*net.TCPConn
	all     *conns
	release func() // called once, when it is closed; may be nil
	once    sync.Once
	// hijacked: the HTTP server no longer closes it.
	hijacked bool
}

func newConns() *conns { return &conns{open: make(map[*conn]struct{})} }

func (c *conns) add(tcp *net.TCPConn, release func()) *conn {
	added := &conn{TCPConn: tcp, all: c, release: release}
	c.mu.Lock()
	ended := c.ended
	c.open[added] = struct{}{}
	c.mu.Unlock()
	if ended {
		added.Close()
	}
	return added
}

func (c *conn) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(func() {
		c.all.mu.Lock()
		delete(c.all.open, c)
		c.all.mu.Unlock()
		if c.release != nil {
			c.release()
		}
	})
	return err
}

// list returns what is open now.
func (c *conns) list() []*conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*conn, 0, len(c.open))
	for conn := range c.open {
		out = append(out, conn)
	}
	return out
}

// closeAll ends every connection, for good.
func (c *conns) closeAll() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	for _, conn := range c.list() {
		conn.Close()
	}
}

// closeIdle ends connections by which nothing has come or gone for that long; the other
// end of a tunnel ends with either.
func (c *conns) closeIdle(limit time.Duration) {
	for _, conn := range c.list() {
		if idle, err := conn.idle(); err == nil && idle >= limit {
			conn.Close()
		}
	}
}

// idle is how long ago the last byte came or went, by the kernel's account: the proxy
// itself does not see a tunnel's.
func (c *conn) idle() (idle time.Duration, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var infoErr error
	err = raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil {
		return 0, err
	}
	if infoErr != nil {
		return 0, infoErr
	}
	return time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond, nil
}
