package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// shortcutPlan is the lab's plan in client mode with the short way, where the test itself
// stands for tor: its sockets are of a control group of their own.
func (l *lab) shortcutPlan(t *testing.T, identities ...plan.Identity) *plan.Plan {
	t.Helper()
	root, err := cgroup.Tree()
	must(t, err)
	group := testCgroup(t, "tor")
	enterCgroup(t, group)
	path, err := filepath.Rel(root, group)
	must(t, err)
	p := l.clientPlan(identities...)
	p.Client.Shortcut = &plan.Shortcut{TorGroup: "/" + path}
	return p
}

// transPort listens in tor's place, at both loopback addresses.
func transPort(t *testing.T) (listeners [2]*net.TCPListener) {
	t.Helper()
	for i, to := range []string{"127.0.0.1:9040", "[::1]:9040"} {
		listener, err := net.Listen("tcp", to)
		must(t, err)
		t.Cleanup(func() { listener.Close() })
		listeners[i] = listener.(*net.TCPListener)
	}
	return listeners
}

// led is a connection that has come to TransPort, and where tor is told that it was to go.
type led struct {
	conn *net.TCPConn
	to   netip.AddrPort
	err  error
}

// acceptLed takes a connection and asks as tor does.
func acceptLed(t *testing.T, listener *net.TCPListener) led {
	t.Helper()
	must(t, listener.SetDeadline(time.Now().Add(5*time.Second)))
	conn, err := listener.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	l := led{conn: conn}
	raw, err := conn.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		l.to, l.err = originalDestination(int(fd), conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Is4())
	}))
	return l
}

// originalDestination is getsockopt(SO_ORIGINAL_DST), for which there is no wrapper.
func originalDestination(fd int, v4 bool) (netip.AddrPort, error) {
	var answer [128]byte
	level, length := uintptr(unix.SOL_IP), uint32(len(answer))
	if !v4 {
		level = unix.SOL_IPV6
	}
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), level, 80,
		uintptr(unsafe.Pointer(&answer)), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	port := uint16(answer[2])<<8 | uint16(answer[3])
	if v4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[4:8])), port), nil
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(answer[8:24])), port), nil
}

// socketTo makes a TCP socket for an address; one for both families may connect to an IPv4
// address in the form of IPv6.
func socketTo(t *testing.T, to netip.AddrPort) int {
	t.Helper()
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(t *testing.T, sa unix.Sockaddr, err error) netip.AddrPort {
	t.Helper()
	must(t, err)
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	t.Fatalf("an address of kind %T", sa)
	return netip.AddrPort{}
}

// begin connects; that it is under way is enough.
func begin(t *testing.T, fd int, to netip.AddrPort) {
	t.Helper()
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect to %v: %v", to, err)
	}
}

// TestTheShortWay leads TCP to TransPort as it connects: tor learns where it was to go, and
// who connected sees no difference.
func TestTheShortWay(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.shortcutPlan(t)
	listeners := transPort(t)
	apply(t, d, p)
	missing, err := d.Missing(p)
	missing = slices.DeleteFunc(missing, func(name string) bool { // apply leaves that of FORWARD out; before Linux 6.4 there are none of these
		return strings.HasPrefix(name, "delivery") || strings.HasPrefix(name, "departure") || strings.HasPrefix(name, "forward")
	})
	if err != nil || len(missing) > 0 {
		t.Fatalf("missing: %v, %v", missing, err)
	}
	for _, c := range []struct {
		to, tor string
		at      int
		bound   string // to an interface
	}{
		{"51.20.0.80:443", "51.20.0.80:443", 0, ""},
		{"[::ffff:51.20.0.80]:8080", "51.20.0.80:8080", 0, ""},
		{"[2a0c::80]:65535", "[2a0c::80]:65535", 1, ""},
		{"51.20.0.80:853", "51.20.0.80:853", 0, ""},
		{"51.20.0.80:443", "51.20.0.80:443", 0, "wan0"},
		{"[2a0c::80]:443", "[2a0c::80]:443", 1, "wan0"},
	} {
		to := netip.MustParseAddrPort(c.to)
		fd := socketTo(t, to)
		must(t, unix.BindToDevice(fd, c.bound))
		begin(t, fd, to)
		got := acceptLed(t, listeners[c.at])
		if got.err != nil || got.to.String() != c.tor {
			t.Errorf("to %v: tor was told %v, %v", to, got.to, got.err)
		}
		peer, err := unix.Getpeername(fd)
		if peer := addrPort(t, peer, err); peer != to {
			t.Errorf("to %v: getpeername says %v", to, peer)
		}
		_, err = got.conn.Write([]byte("hello"))
		must(t, err)
		await(t, "what tor says", func() bool {
			n, err := unix.Read(fd, make([]byte, 8))
			return err == nil && n == 5
		})
	}
}

// TestTheLongWay is taken by all that some rule, or route, may be about, and by what tor could
// not be asked about. There is no way here from there, so nothing of it comes to TransPort.
func TestTheLongWay(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.shortcutPlan(t, user(65501, config.PolicyDirect))
	p.Client.Shortcut.Detours = prefixes("51.21.0.0/16", "2a0d::/32")
	p.Client.Shortcut.Ports = []uint16{22}
	listeners := transPort(t)
	apply(t, d, p)
	const public = "51.20.0.80:443"
	for _, c := range []struct {
		name, to string
		prepare  func(fd int) error
	}{
		{"DNS", "51.20.0.80:53", nil},
		{"a port of a rule's", "51.20.0.80:22", nil},
		{"a destination of a rule's", "51.21.3.4:443", nil},
		{"a destination of a rule's, mapped", "[::ffff:51.21.3.4]:443", nil},
		{"a destination of a rule's, IPv6", "[2a0d::1]:443", nil},
		{"private", "10.1.2.3:443", nil},
		{"of a LAN", clientAddr + ":443", nil},
		{"IPv6 of a LAN", "[fd50::11]:443", nil},
		{"IPv6 that is no site's", "[64:ff9b::1.2.3.4]:443", nil},
		{"this machine's", wanAddr + ":443", nil},
		{"what begins outside again", "127.0.0.1:443", nil},
		{"IPv6 loopback", "[::1]:443", nil},
		{"bound to an address", public, func(fd int) error { return unix.Bind(fd, sockaddr(netip.MustParseAddrPort(wanAddr+":0"))) }},
		{"marked by its user", public, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x100) }},
		{"direct", public, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(markDirect))
		}},
	} {
		to := netip.MustParseAddrPort(c.to)
		fd := socketTo(t, to)
		if c.prepare != nil {
			must(t, c.prepare(fd))
		}
		_ = unix.Connect(fd, sockaddr(to)) // some have no route here
		local, err := unix.Getsockname(fd)
		if from := addrPort(t, local, err); from.Addr().Unmap().IsLoopback() && !to.Addr().Unmap().IsLoopback() {
			t.Errorf("%s: to %v it comes from %v", c.name, to, from)
		}
	}
	for _, listener := range listeners {
		must(t, listener.SetDeadline(time.Now().Add(100*time.Millisecond)))
		if conn, err := listener.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("TransPort got a connection: %v, %v", conn, err)
		}
	}
}

// TestAnOldTargetIsNobodys: neither who connects once more, nor who comes from the same port, is
// taken for who was led there before.
func TestAnOldTargetIsNobodys(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.shortcutPlan(t)
	listeners := transPort(t)
	apply(t, d, p)
	other, err := net.Listen("tcp", "127.0.0.1:443")
	must(t, err)
	defer other.Close()

	to := netip.MustParseAddrPort("51.20.0.80:443")
	fd := socketTo(t, to)
	begin(t, fd, to)
	first := acceptLed(t, listeners[0])
	port := first.conn.RemoteAddr().(*net.TCPAddr).Port
	must(t, disconnect(uintptr(fd)))
	again := netip.MustParseAddrPort("127.0.0.1:443")
	begin(t, fd, again)
	peer, err := unix.Getpeername(fd)
	if peer := addrPort(t, peer, err); peer != again {
		t.Errorf("connected to %v, getpeername says %v", again, peer)
	}

	direct := socketTo(t, to)
	must(t, unix.Bind(direct, &unix.SockaddrInet4{Port: port}))
	begin(t, direct, netip.MustParseAddrPort("127.0.0.1:9040"))
	if got := acceptLed(t, listeners[0]); got.err == nil && got.to == to {
		t.Errorf("who connects to TransPort itself was taken for who wanted %v", to)
	}
}

// TestATargetOfAnEarlierShortWayIsForgotten by a socket that connects while there is none, and so
// is not told of when there is one again.
func TestATargetOfAnEarlierShortWayIsForgotten(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.shortcutPlan(t)
	listeners := transPort(t)
	other, err := net.Listen("tcp", "127.0.0.1:443")
	must(t, err)
	defer other.Close()
	apply(t, d, p)
	to, again := netip.MustParseAddrPort("51.20.0.80:443"), netip.MustParseAddrPort("127.0.0.1:443")
	fd := socketTo(t, to)
	begin(t, fd, to)
	acceptLed(t, listeners[0])
	apply(t, d, l.clientPlan())
	must(t, disconnect(uintptr(fd)))
	begin(t, fd, again)
	apply(t, d, p)
	peer, err := unix.Getpeername(fd)
	if peer := addrPort(t, peer, err); peer != again {
		t.Errorf("connected to %v, getpeername says %v", again, peer)
	}
}

// TestTheShortWayEnds with the plan that has it, and with it all of its programs.
func TestTheShortWayEnds(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.shortcutPlan(t)
	apply(t, d, p)
	without := l.clientPlan()
	apply(t, d, without)
	links, err := os.ReadDir(d.linkPin(""))
	must(t, err)
	for _, link := range links {
		if slices.ContainsFunc(clientPrograms, func(c clientProgram) bool { return c.shortcut && c.pin == link.Name() }) {
			t.Errorf("%s is still attached", link.Name())
		}
	}
	to := netip.MustParseAddrPort("51.20.0.80:443")
	fd := socketTo(t, to)
	_ = unix.Connect(fd, sockaddr(to))
	local, err := unix.Getsockname(fd)
	if from := addrPort(t, local, err); from.Addr().IsLoopback() {
		t.Errorf("to %v it comes from %v", to, from)
	}
	// A group that is gone takes its link along, and is told.
	apply(t, d, p)
	p.Client.Shortcut = &plan.Shortcut{TorGroup: fmt.Sprintf("/torbpf-test-%d/nobody", os.Getpid())}
	if missing, err := d.Missing(p); err != nil || !slices.Contains(missing, "tor_target") {
		t.Errorf("missing: %v, %v; want tor_target", missing, err)
	}
}
