package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

const (
	markOfTor     = markDirect | abi.OwnOfTor<<28
	markBesideTor = markDirect | abi.OwnBesideTor<<28
)

// streamSocket is one of the test's, with a mark, for all addresses by IPv6.
func streamSocket(t *testing.T, protocol int, mark uint32) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))))
	return fd
}

// listenAt has a socket with a mark take connections, and returns its port.
func listenAt(t *testing.T, at string, protocol int, mark uint32) uint16 {
	t.Helper()
	fd := streamSocket(t, protocol, mark)
	must(t, errors.Join(unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr(at).As16()}), unix.Listen(fd, 16)))
	name, err := unix.Getsockname(fd)
	must(t, err)
	return uint16(name.(*unix.SockaddrInet6).Port)
}

// connectAs connects with a mark, from an address if that is not "".
func connectAs(t *testing.T, protocol int, mark uint32, from, to string, port uint16) error {
	t.Helper()
	fd := streamSocket(t, protocol, mark)
	if from != "" {
		must(t, unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr(from).As16()}))
	}
	return unix.Connect(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr(to).As16(), Port: int(port)})
}

// TestNobodyConnectsToWhatRunsBesideTor, by whichever address, but tor does: a transport would
// take anybody anywhere.
func TestNobodyConnectsToWhatRunsBesideTor(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.clientPlan()
	guards(t, d, p)
	for _, c := range []struct {
		at, from, to string
	}{
		{"::ffff:127.0.0.1", "", "::ffff:127.0.0.1"}, {"::ffff:127.0.0.1", "", "::ffff:0.0.0.0"},
		{"::ffff:127.0.0.1", "::ffff:127.0.0.1", "::"},
		{"::ffff:127.0.0.9", "::ffff:127.0.0.9", "::ffff:0.0.0.0"},
		{"::1", "", "::1"}, {"::1", "", "::"}, {"::", "", "::1"}, {"::", "", "::ffff:127.0.0.1"}, {"::", "", "::ffff:127.4.5.6"},
		{"::", "", "::ffff:" + wanAddr},
	} {
		for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} {
			for _, by := range []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} {
				what := fmt.Sprintf("%+v to protocol %d by %d", c, protocol, by)
				beside, tor := listenAt(t, c.at, protocol, markBesideTor), listenAt(t, c.at, protocol, markOfTor)
				for _, mark := range []uint32{markNone, markTor, markDirect, markInbound} {
					if err := connectAs(t, by, mark, c.from, c.to, beside); !errors.Is(err, unix.EPERM) {
						t.Errorf("%s with mark %#x: %v, want %v", what, mark, err, unix.EPERM)
					}
				}
				for _, mark := range []uint32{markOfTor, markBesideTor} {
					if err := connectAs(t, by, mark, c.from, c.to, beside); err != nil {
						t.Errorf("%s with mark %#x of tor's: %v", what, mark, err)
					}
				}
				if err := connectAs(t, by, markNone, c.from, c.to, tor); err != nil {
					t.Errorf("%s, of tor itself: %v", what, err)
				}
			}
		}
	}
}

// TestWhatExecRunsConnectsToNothingBesideTor, and all others do: they are direct themselves.
func TestWhatExecRunsConnectsToNothingBesideTor(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.clientPlan()
	p.Client.All = false
	guards(t, d, p)
	port := listenAt(t, "::1", unix.IPPROTO_TCP, markBesideTor)
	if err := connectAs(t, unix.IPPROTO_TCP, markTor, "", "::1", port); !errors.Is(err, unix.EPERM) {
		t.Errorf("what exec runs: %v, want %v", err, unix.EPERM)
	}
	if err := connectAs(t, unix.IPPROTO_TCP, markNone, "", "::1", port); err != nil {
		t.Errorf("another: %v", err)
	}
}
