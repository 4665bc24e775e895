package sockets

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestConnectionsWithoutADescriptorAreFound: one that nobody has accepted, and what is left of one that
// was closed before its other end has read.
func TestConnectionsWithoutADescriptorAreFound(t *testing.T) {
	const mark = 0x02000000
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		visited(t, l.Addr().String(), func(s *Socket) error { return s.SetMark(mark) })
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		here := Connection{Local: netip.MustParseAddrPort(l.Addr().String()), Remote: netip.MustParseAddrPort(c.LocalAddr().String()), Mark: mark}
		listed := func() []Connection {
			t.Helper()
			all, err := Connections()
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		if all := listed(); !slices.Contains(all, here) {
			t.Errorf("%+v, which nobody has accepted, is not among %+v", here, all)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		fill(t, accepted)
		if err := accepted.Close(); err != nil {
			t.Fatal(err)
		}
		if all := listed(); !slices.Contains(all, here) {
			t.Errorf("%+v, which is closed with something left to send, is not among %+v", here, all)
		}
		if err := Destroy(here.Local, here.Remote); err != nil {
			t.Fatal(err)
		}
		if all := listed(); slices.Contains(all, here) {
			t.Errorf("%+v is there after its end", here)
		}
	}
}

// fill writes to a connection until its other end takes no more.
func fill(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Write(func(fd uintptr) bool { return writeAll(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}

// writeAll writes until it would have to wait.
func writeAll(fd int) bool {
	for {
		if _, err := unix.Write(fd, make([]byte, 64<<10)); err != nil {
			return errors.Is(err, unix.EAGAIN)
		}
	}
}
