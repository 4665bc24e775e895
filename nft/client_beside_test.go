package nft

import (
	"errors"
	"net/netip"
	"strings"
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

// sentAgain has a SYN with a mark dropped by a full backlog, gives the port to what runs beside tor,
// and returns what becomes of the connection.
func sentAgain(t *testing.T, addr netip.Addr, mark int) error {
	t.Helper()
	first, at := listenMarked(t, netip.AddrPortFrom(addr, 0), 0, 0)
	to := sockaddr(addr.String(), int(at.Port()))
	filler, fd := loopbackSocket(t, addr, 0), loopbackSocket(t, addr, mark)
	defer unix.Close(fd)
	if err := unix.Connect(filler, to); err != nil {
		t.Fatal(err)
	}
	awaitEvent(t, first, unix.POLLIN) // it is in the backlog
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("the backlog is not full: %v", err)
	}
	unix.Close(first)
	unix.Close(filler)
	transport, _ := listenMarked(t, at, markBesideTor, 16)
	defer unix.Close(transport)
	return connected(t, fd)
}

// TestASYNThatIsSentAgainMeetsNoTransport: one that a full backlog has dropped, at a port that what
// runs beside tor has got since. Here nothing has asked at connect().
func TestASYNThatIsSentAgainMeetsNoTransport(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	if rules := l.own.nft(t, "", "list", "table", "inet", "torbpf"); !strings.Contains(rules, "socket mark") {
		t.Skip("this kernel's nftables does without the look-up of routes and sockets")
	}
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for mark, want := range map[int]error{0: unix.ECONNREFUSED, markDirect: unix.ECONNREFUSED, markTor: unix.ECONNREFUSED, markOfTor: nil, markBesideTor: nil} {
			refused := false
			var got error
			for range 5 {
				before := l.drops(RefusedClient)
				got = sentAgain(t, netip.MustParseAddr(addr), mark)
				if refused = l.drops(RefusedClient) > before; refused || !errors.Is(got, unix.ECONNREFUSED) {
					break
				} // otherwise it came while nobody had the port
			}
			if !errors.Is(got, want) || refused != (want != nil) {
				t.Errorf("at %s with mark %#x: %v, by nftables: %v; want %v\n%s", addr, mark, got, refused, want, l.own.nft(t, "", "list", "chain", "inet", "torbpf", "input"))
			}
		}
	}
}
