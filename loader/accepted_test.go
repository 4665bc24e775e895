package loader

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// TestAcceptedConnectionsAreInbound when somebody outside has begun them.
func TestAcceptedConnectionsAreInbound(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	all := l.clientPlan()
	execOnly := l.clientPlan()
	execOnly.Client.All = false
	for _, c := range []struct {
		name string
		plan *plan.Plan
		from namespace
		to   string
		want uint32
	}{
		{"from outside", all, l.server, net.JoinHostPort(wanAddr, "22"), markInbound},
		{"from outside, Tor's port", all, l.server, net.JoinHostPort(wanAddr, "9040"), markNone},
		{"from outside, the sentry's port", all, l.server, net.JoinHostPort(wanAddr, "9054"), markNone},
		{"from a LAN", all, l.client, net.JoinHostPort(routerAddr, "22"), markNone},
		{"from a LAN, IPv6", all, l.client, net.JoinHostPort("fd50::1", "22"), markNone},
		{"from this machine", all, here(t), net.JoinHostPort("127.0.0.1", "22"), markNone},
		{"from this machine, IPv6", all, here(t), net.JoinHostPort("::1", "22"), markNone},
		{"from this machine by another address", all, here(t), net.JoinHostPort(wanAddr, "22"), markNone},
		{"without client mode for all", execOnly, l.server, net.JoinHostPort(wanAddr, "22"), markNone},
	} {
		g := guards(t, d, c.plan)
		must(t, g.collection.Maps[abi.DatapathMapGates].Put(uint32(0), gateOpen))
		networks := []string{"tcp"} // a socket for both families
		if !strings.HasPrefix(c.to, "[") {
			networks = append(networks, "tcp4")
		}
		for _, network := range networks {
			if got := markOf(t, acceptFrom(t, network, c.from, c.to)); got != c.want {
				t.Errorf("%s: the accepted socket (%s) has mark %#x, want %#x", c.name, network, got, c.want)
			}
		}
	}
}

// acceptFrom connects and returns the other end of it.
func acceptFrom(t *testing.T, network string, from namespace, to string) *net.TCPConn {
	t.Helper()
	_, port, err := net.SplitHostPort(to)
	must(t, err)
	listener, err := net.Listen(network, ":"+port)
	must(t, err)
	defer listener.Close()
	must(t, from.do(func() error {
		conn, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	}))
	conn, err := listener.Accept()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

func markOf(t *testing.T, conn syscall.Conn) uint32 {
	t.Helper()
	control, err := conn.SyscallConn()
	must(t, err)
	mark := 0
	must(t, control.Control(func(fd uintptr) {
		mark, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK)
	}))
	must(t, err)
	return uint32(mark)
}

// TestAnAcceptedSocketThatConnectsIsNotInbound: disconnected, it leads anywhere.
func TestAnAcceptedSocketThatConnectsIsNotInbound(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	guards(t, d, l.clientPlan())
	for _, c := range []struct {
		network string
		to      unix.Sockaddr
	}{
		{"tcp4", &unix.SockaddrInet4{Port: 9, Addr: [4]byte{62, 10, 0, 1}}},
		{"tcp", &unix.SockaddrInet6{Port: 9, Addr: [16]byte{10: 0xff, 11: 0xff, 12: 62, 13: 10, 15: 1}}},
	} {
		conn := acceptFrom(t, c.network, l.server, net.JoinHostPort(wanAddr, "22"))
		if got := markOf(t, conn); got != markInbound {
			t.Fatalf("%s: the accepted socket has mark %#x, want %#x", c.network, got, markInbound)
		}
		control, err := conn.SyscallConn()
		must(t, err)
		var refused error
		must(t, control.Control(func(fd uintptr) {
			must(t, disconnect(fd))
			refused = unix.Connect(int(fd), c.to)
		}))
		if refused != unix.EINPROGRESS && refused != unix.ECONNREFUSED {
			t.Fatalf("%s: connect once more: %v", c.network, refused)
		}
		if got := markOf(t, conn); got != markNone {
			t.Errorf("%s: it connects with mark %#x, want none", c.network, got)
		}
	}
}

// TestNobodyConnectsToThisMachineForAnother: IPv6 lets everybody bind to any address, and the
// answer would go there.
func TestNobodyConnectsToThisMachineForAnother(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	run(t, "ip -6 addr add fd60::2/64 dev wan0 nodad")
	p := l.clientPlan()
	p.LocalAddrs = append(p.LocalAddrs, netip.MustParseAddr("fd50::1"), netip.MustParseAddr("fd60::2"))
	guards(t, d, p)
	listener, err := net.Listen("tcp6", "[::]:2222")
	must(t, err)
	defer listener.Close()
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{"fd60::1", "fd50::1", unix.EPERM}, {"fd60::1", "::1", unix.EPERM}, {"fd60::1", "::", unix.EPERM}, {"fd60::1", "fd60::2", unix.EPERM},
		{"fd60::2", "fd50::1", unix.EINPROGRESS}, {"::1", "::1", unix.EINPROGRESS}, {"::", "fd50::1", unix.EINPROGRESS}, {"fd60::1", "fd60::9", unix.EINPROGRESS},
	} {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		must(t, err)
		const freebind = 78 // IPV6_FREEBIND, of linux/in6.h
		must(t, errors.Join(unix.SetsockoptInt(fd, unix.SOL_IPV6, freebind, 1), unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr(c.from).As16()})))
		err = unix.Connect(fd, &unix.SockaddrInet6{Port: 2222, Addr: netip.MustParseAddr(c.to).As16()})
		must(t, unix.Close(fd))
		if !errors.Is(err, c.want) {
			t.Errorf("from %s to %s: %v, want %v", c.from, c.to, err, c.want)
		}
	}
}

// disconnect makes of a connected socket one that may connect once more.
func disconnect(fd uintptr) error {
	unspecified := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&unspecified)), unsafe.Sizeof(unspecified)); e != 0 {
		return e
	}
	return nil
}

// here is the network namespace of the test.
func here(t *testing.T) namespace {
	t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return namespace(fd)
}

// TestKernelThreadsAreNobody: MPTCP's further subflows are begun by one, which is root,
// for whoever has begun the first.
func TestKernelThreadsAreNobody(t *testing.T) {
	needCookie(t)
	needTCX(t)
	if _, err := os.Stat("/proc/sys/net/mptcp"); err != nil {
		t.Skip("this kernel was built without MPTCP (CONFIG_MPTCP)")
	}
	l := newLab(t)
	const setUp = `
		ip mptcp limits set subflow 2 add_addr_accepted 2`
	run(t, `
		ip addr add 62.10.0.3/24 dev wan0`+setUp+`
		ip mptcp endpoint add 62.10.0.3 dev wan0 subflow`)
	must(t, l.server.do(func() error { run(t, setUp); return nil }))
	marks := newForeign(t, next)
	marks.attachTCX(t, l.wan, ebpf.AttachTCXEgress)
	d := l.open(t, false)
	guards(t, d, l.clientPlan(user(0, config.PolicyDirect), user(65501, config.PolicyTor)))
	must(t, errors.Join(netfilterGuards[1].detach(d)...)) // without nftables it lets nothing of Tor's out
	var listener net.Listener
	must(t, l.server.do(func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(true)
		listener, err = c.Listen(t.Context(), "tcp4", ":7")
		return err
	}))
	defer listener.Close()
	marks.forget(t)
	must(t, here(t).do(func() error {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65501, 65501, 65501); e != 0 { // of this thread
			return e
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 262) // IPPROTO_MPTCP
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return unix.Connect(fd, &unix.SockaddrInet4{Port: 7, Addr: [4]byte{62, 10, 0, 1}})
	}))
	conn, err := listener.Accept()
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("so that the connection is established at both ends"))
	must(t, err)
	await(t, "the second subflow", func() bool { return strings.Contains(run(t, "ss -tnH src 62.10.0.3"), "ESTAB") })
	marks.awaitMark(t, markTor)
	marks.never(t, markDirect)
}
