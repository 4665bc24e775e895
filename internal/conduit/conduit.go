// Package conduit lets a process without privileges open connections to one that has some.
package conduit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Conduit is how a process without privileges reaches an API: whoever holds the other end can
// open connections, and nobody else, since it has no name. For each it sends a byte, and root
// makes a pair of connected sockets and sends one of them back. Nothing is taken from the other
// end: who shares a socket of root's could make it block.
//
//	torbpf run (root)                     torbpf-web (nobody)
//	Conduit.Accept ◀────────── a byte ───── Dialer.Dial
//	      …        ── one end of a pair ──▶
//	      HTTP ◀──────────────────────────▶ HTTP
type Conduit struct {
	conn   *net.UnixConn
	closed sync.Once
}

// New returns this process's end, and the other one, to hand to a child.
func New() (*Conduit, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a conduit: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "conduit")
	conn, err := unixConn(ends[0], "conduit")
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return &Conduit{conn: conn}, theirs, nil
}

// unixConn takes over a descriptor.
func unixConn(fd int, name string) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), name)
	defer file.Close() // FileConn duplicates it
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("use the %s: %w", name, err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("use the %s: it is a %T", name, conn), conn.Close())
	}
	return unixConn, nil
}

// Accept implements net.Listener. It ends when the other end is gone.
func (c *Conduit) Accept() (net.Conn, error) {
	var asked [1]byte
	for {
		// Without room for descriptors the kernel drops those that come with it.
		n, err := c.conn.Read(asked[:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, net.ErrClosed
		}
		conn, theirs, err := pair()
		if err != nil { // too many are open here: whoever has asked is told so
			if _, err := c.conn.Write(refusal); err != nil {
				return nil, err
			}
			continue
		}
		_, _, err = c.conn.WriteMsgUnix([]byte{0}, unix.UnixRights(theirs), nil)
		if err := errors.Join(err, unix.Close(theirs)); err != nil {
			return nil, errors.Join(fmt.Errorf("hand over a connection through a conduit: %w", err), conn.Close())
		}
		return conn, nil
	}
}

// refusal says that there is no connection.
var refusal = []byte{1}

// pair returns this process's end of a connection, and the other one.
func pair() (*net.UnixConn, int, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	conn, err := unixConn(ends[0], "connection through a conduit")
	if err != nil {
		return nil, 0, errors.Join(err, unix.Close(ends[1]))
	}
	return conn, ends[1], nil
}

// receivedFD takes the one descriptor out of a message; all others it closes.
func receivedFD(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, fmt.Errorf("read the conduit: %w", err)
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err == nil {
			fds = append(fds, got...)
		}
	}
	for _, fd := range fds[min(1, len(fds)):] {
		unix.Close(fd)
	}
	if len(fds) == 0 {
		return 0, errors.New("read the conduit: no descriptor came through")
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// Close implements net.Listener.
func (c *Conduit) Close() (err error) {
	c.closed.Do(func() { err = c.conn.Close() })
	return err
}

// Addr implements net.Listener.
func (c *Conduit) Addr() net.Addr { return c.conn.LocalAddr() }

// Dialer is the child's end of a conduit.
type Dialer struct {
	conn    *net.UnixConn
	dialing sync.Mutex    // one at a time: answers come in turn
	answers chan int      // descriptors; refused for none
	gone    chan struct{} // closed when the other end is
}

const refused = -1

// NewDialer takes over the end that the child was handed.
func NewDialer(theirs *os.File) (*Dialer, error) {
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("use the conduit: %w", err)
	}
	theirs.Close()
	conn, err := unixConn(fd, "conduit")
	if err != nil {
		return nil, err
	}
	d := &Dialer{conn: conn, answers: make(chan int), gone: make(chan struct{})}
	go d.read()
	return d, nil
}

// read takes what comes through until the other end is gone.
func (d *Dialer) read() {
	defer close(d.gone)
	var note [1]byte
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := d.conn.ReadMsgUnix(note[:], rights)
		if err != nil || n == 0 {
			return
		}
		fd, err := receivedFD(rights[:oobn])
		if err != nil {
			fd = refused
		}
		d.answers <- fd // somebody has asked, and waits
	}
}

// Dial opens a connection through a conduit. What would name an address is ignored, so that it
// fits http.Transport; so is the end of a context, since an answer belongs to who has asked first.
func (d *Dialer) Dial(_ context.Context, _, _ string) (net.Conn, error) {
	d.dialing.Lock()
	defer d.dialing.Unlock()
	if _, err := d.conn.Write([]byte{0}); err != nil {
		return nil, fmt.Errorf("open a connection through a conduit: %w", err)
	}
	select {
	case <-d.gone:
		return nil, fmt.Errorf("open a connection through a conduit: %w", net.ErrClosed)
	case fd := <-d.answers:
		if fd == refused {
			return nil, errors.New("open a connection through a conduit: the other end has too much open; try again in a moment")
		}
		return unixConn(fd, "connection through a conduit")
	}
}

// Wait returns when the other end is gone.
func (d *Dialer) Wait() { <-d.gone }
