package nft

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// The marks of tor's sockets, and of those of what runs beside it.
const (
	markOfTor     = markDirect | int(abi.OwnOfTor)<<28
	markBesideTor = markDirect | int(abi.OwnBesideTor)<<28
)

// loopbackSocket is one of the machine's, with a mark.
func loopbackSocket(t *testing.T, addr netip.Addr, mark int) int {
	t.Helper()
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// listenMarked listens with so much room for whom nobody has accepted.
func listenMarked(t *testing.T, at netip.AddrPort, mark, room int) (fd int, bound netip.AddrPort) {
	t.Helper()
	fd = loopbackSocket(t, at.Addr(), mark)
	if err := errors.Join(unix.Bind(fd, sockaddr(at.Addr().String(), int(at.Port()))), unix.Listen(fd, room)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch sa := name.(type) {
	case *unix.SockaddrInet4:
		return fd, netip.AddrPortFrom(at.Addr(), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return fd, netip.AddrPortFrom(at.Addr(), uint16(sa.Port))
	}
	t.Fatalf("it listens at %v", name)
	return 0, netip.AddrPort{}
}

func awaitEvent(t *testing.T, fd int, event int16) {
	t.Helper()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: event}}, int(patience/time.Millisecond)); err != nil || n != 1 {
		t.Fatalf("nothing becomes of it: %v", err)
	}
}

// connected waits for what becomes of a connection that was begun.
func connected(t *testing.T, fd int) error {
	t.Helper()
	awaitEvent(t, fd, unix.POLLOUT)
	number, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		t.Fatal(err)
	}
	if number != 0 {
		return unix.Errno(number)
	}
	return nil
}

// TestASYNThatIsSentAgainMeetsNoTransport: one that a full backlog has dropped, at a port that what
// runs beside tor has got since. Here nothing has asked at connect().
func TestASYNThatIsSentAgainMeetsNoTransport(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for mark, want := range map[int]error{0: unix.ECONNREFUSED, markDirect: unix.ECONNREFUSED, markTor: unix.ECONNREFUSED, markOfTor: nil, markBesideTor: nil} {
			first, at := listenMarked(t, netip.AddrPortFrom(netip.MustParseAddr(addr), 0), 0, 0)
			filler, fd := loopbackSocket(t, at.Addr(), 0), loopbackSocket(t, at.Addr(), mark)
			if err := unix.Connect(filler, sockaddr(at.Addr().String(), int(at.Port()))); err != nil {
				t.Fatal(err)
			}
			awaitEvent(t, first, unix.POLLIN) // it is in the backlog
			if err := unix.SetNonblock(fd, true); err != nil {
				t.Fatal(err)
			}
			if err := unix.Connect(fd, sockaddr(at.Addr().String(), int(at.Port()))); !errors.Is(err, unix.EINPROGRESS) {
				t.Fatalf("the backlog is not full: %v", err)
			}
			unix.Close(first)
			unix.Close(filler)
			transport, _ := listenMarked(t, at, markBesideTor, 16)
			if err := connected(t, fd); !errors.Is(err, want) {
				t.Errorf("at %s with mark %#x: %v, want %v", at, mark, err, want)
			}
			unix.Close(fd)
			unix.Close(transport)
		}
	}
}
