package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// again is a socket of TCP that has been led to Tor by the short way, is disconnected, and
// connects once more.
type again struct {
	name   string
	domain int
	to     netip.AddrPort
	came   func(netip.Addr) bool // whom the server must see
}

// ways are those by which a socket connects: a request may come with it.
var ways = map[string]struct {
	deferred, sends bool
}{
	"connect":              {},
	"MSG_FASTOPEN":         {sends: true},
	"TCP_FASTOPEN_CONNECT": {deferred: true},
}

// TestASocketOfTheMachineConnectsAgain: wherever it was led before, each connection ends where
// the program wanted it, and it is told so.
func TestASocketOfTheMachineConnectsAgain(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, "--client")
	exit4 := func(a netip.Addr) bool { return a.Is4() && lab.Tor.IsExit(a) }
	exit6 := func(a netip.Addr) bool { return a.Is6() && lab.Tor.IsExit(a) }
	itself := func(want netip.Addr) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return a == want }
	}
	here := at(netip.MustParseAddr("127.0.0.1"), 8090)
	if err := lab.NewServices(lab.Router).ServeHTTP(here, nil); err != nil {
		t.Fatal(err)
	}
	neighbour := at(lab.Client1.IPv4, testnet.PortForwardTCP)
	cases := []again{
		{"another site", unix.AF_INET, at(testnet.Other4, testnet.PortHTTP), exit4},
		{"another site, IPv6", unix.AF_INET6, at(testnet.Other6, testnet.PortHTTP), exit6},
		{"another site, mapped", unix.AF_INET6, at(mapped(testnet.Other4), testnet.PortHTTP), exit4},
		{"a neighbour", unix.AF_INET, neighbour, itself(testnet.LANRouter4)},
		{"a neighbour, mapped", unix.AF_INET6, at(mapped(neighbour.Addr()), neighbour.Port()), itself(testnet.LANRouter4)},
		{"this machine", unix.AF_INET, here, itself(here.Addr())},
		{"this machine, mapped", unix.AF_INET6, at(mapped(here.Addr()), here.Port()), itself(here.Addr())},
	}
	capture := captureWAN(t, lab)
	checkAgain(t, lab, cases)
	checkNoLeaks(t, capture)
	mustTorbpf(t, lab, "exclude", "add", "--client", "51.21.0.0/16", "2a0e:21::/32")
	checkAgain(t, lab, []again{
		{"an excluded site", unix.AF_INET, at(testnet.Other4, testnet.PortHTTP), itself(testnet.WANRouter4)},
		{"an excluded site, IPv6", unix.AF_INET6, at(testnet.Other6, testnet.PortHTTP), itself(testnet.WANRouter6)},
	})
}

func checkAgain(t *testing.T, lab *testnet.Lab, cases []again) {
	t.Helper()
	for _, c := range cases {
		for first := range ways {
			for way := range ways {
				name := fmt.Sprintf("%s, by %s and then by %s", c.name, first, way)
				peer, came, err := c.fetch(lab.Router, first, way)
				if err != nil || peer != c.to || !c.came(came) {
					t.Errorf("%s: connected to %v, the server saw %v, %v; want %v", name, peer, came, err, c.to)
				}
			}
		}
	}
}

// fetch connects to the web server first, by one way, and then where it is to go, by another; it
// asks for the page of who came.
func (a again) fetch(n *testnet.Node, first, way string) (peer netip.AddrPort, came netip.Addr, err error) {
	before := at(testnet.Web4, testnet.PortHTTP)
	if a.domain == unix.AF_INET6 {
		before = at(testnet.Web6, testnet.PortHTTP)
	}
	fd := -1
	defer func() { unix.Close(fd) }()
	err = n.Do(func() error {
		if fd, err = unix.Socket(a.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		wait := unix.NsecToTimeval(int64(torPatience))
		err := errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
			connectBy(fd, first, before))
		if err != nil {
			return fmt.Errorf("connect to %v: %w", before, err)
		}
		if sa, err := unix.Getpeername(fd); err != nil || addrPortOf(sa) != before {
			return fmt.Errorf("connected to %v: getpeername says %v, %w", before, sa, err)
		}
		if err := disconnect(fd); err != nil {
			return fmt.Errorf("disconnect: %w", err)
		}
		if sa, err := unix.Getpeername(fd); !errors.Is(err, unix.ENOTCONN) {
			return fmt.Errorf("disconnected: getpeername says %v, %w", sa, err)
		}
		if err := connectBy(fd, way, a.to); err != nil {
			return fmt.Errorf("connect to %v: %w", a.to, err)
		}
		sa, err := unix.Getpeername(fd)
		if err == nil {
			peer = addrPortOf(sa)
		}
		return err
	})
	if err != nil {
		return peer, came, err
	}
	came, err = sourceSeen(fd)
	return peer, came, err
}

// connectBy connects by one of the ways and sends a request.
func connectBy(fd int, way string, to netip.AddrPort) error {
	const request = "GET / HTTP/1.1\r\nHost: again\r\nConnection: close\r\n\r\n"
	deferred := 0
	if ways[way].deferred {
		deferred = 1
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, deferred); err != nil {
		return err
	}
	if ways[way].sends {
		return unix.Sendto(fd, []byte(request), unix.MSG_FASTOPEN, sockaddrOf(to))
	}
	if err := unix.Connect(fd, sockaddrOf(to)); err != nil {
		return err
	}
	_, err := unix.Write(fd, []byte(request))
	return err
}

// disconnect dissolves an association (connect(2), AF_UNSPEC).
func disconnect(fd int) error {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none)); errno != 0 {
		return errno
	}
	return nil
}

func sockaddrOf(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	return &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
}

func addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return at(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return at(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
