package loader

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/testnet"
)

// TestARawSocketHasNoMoreThanALastWord: one with a mark that nobody has accounted for looks
// like the kernel's own, by which it acknowledges the end of connections.
func TestARawSocketHasNoMoreThanALastWord(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(markDirect)), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_HDRINCL, 1)))
	must(t, guards(t, d, l.guardedPlan()).pin())
	from, to := netip.MustParseAddrPort(wanAddr+":40000"), netip.MustParseAddrPort(serverAddr+":7001")
	for _, c := range []struct {
		name    string
		flags   uint8
		data    string
		stopped bool
	}{
		{"ACK", testnet.FlagACK, "", false},
		{"RST", testnet.FlagRST, "", false},
		{"data", testnet.FlagACK, "hello", true},
		{"SYN", testnet.FlagSYN, "", true},
		{"SYN+ACK", testnet.FlagSYN | testnet.FlagACK, "", true},
		{"nothing", 0, "", true},
	} {
		before := packets(t, d, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonClientEnded)
		packet := testnet.TCPSegment(from, to, c.flags, 1, 1, []byte(c.data))
		if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()}); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if stopped := packets(t, d, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonClientEnded) > before; stopped != c.stopped {
			t.Errorf("%s: it is stopped: %t, want %t", c.name, stopped, c.stopped)
		}
	}
}
