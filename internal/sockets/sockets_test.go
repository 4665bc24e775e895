package sockets

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// visited finds the socket of this process that has a local address.
func visited(t *testing.T, local string, then func(*Socket) error) *Socket {
	t.Helper()
	var found *Socket
	err := Each(func(s *Socket) error {
		if s.Owner.PID != os.Getpid() || s.Local != netip.MustParseAddrPort(local) {
			return nil
		}
		found = s
		return then(s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == nil {
		t.Fatalf("no socket at %s was found", local)
	}
	return found
}

func nothing(*Socket) error { return nil }

func TestEachFindsSocketsAndMarksThem(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if s := visited(t, l.Addr().String(), nothing); !s.TCP || !s.Listening || s.Remote.IsValid() || s.Owner.User != uint32(os.Geteuid()) || s.Owner.Program.Inode == 0 {
		t.Errorf("a listener is %+v of %+v", s, s.Owner)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const mark = 0x01000000
	if s := visited(t, c.LocalAddr().String(), func(s *Socket) error { return s.SetMark(mark) }); !s.TCP || s.Listening || s.Remote.String() != l.Addr().String() {
		t.Errorf("a connection is %+v", s)
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if have, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); err != nil || have != mark {
			t.Errorf("the socket itself has mark %#x, %v", have, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if s := visited(t, u.LocalAddr().String(), nothing); s.TCP || s.Listening || s.Remote.IsValid() {
		t.Errorf("a UDP socket is %+v", s)
	}
}
