package sentry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// What the test binary does instead of testing when this is its first argument.
const (
	roleSentry     = "role-sentry"      // RunChild, with a tor as bootstrapped as its control address says
	roleMute       = "role-mute"        // dies at once
	roleSilent     = "role-silent"      // reports nothing and lives on
	roleGateWriter = "role-gate-writer" // opens gate 3 of descriptor 3, shuts it after a line on stdin
	roleDNSPort    = "role-dnsport"     // a DNSPort on the port of the second argument
)

// liveOn waits for a signal that nobody sends. With nothing to wait for, a program
// without cgo would be ended by the runtime as deadlocked.
func liveOn() error {
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGUSR1)
	<-never
	return nil
}

func TestMain(m *testing.M) {
	roles := map[string]func() error{
		roleSentry:     beSentry,
		roleMute:       func() error { return errors.New("mute") },
		roleSilent:     liveOn,
		roleGateWriter: beGateWriter,
		roleDNSPort:    beDNSPort,
	}
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			if err := role(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

// constantTor always says the same.
type constantTor int

func (c constantTor) Bootstrap(context.Context) (int, string, error) { return int(c), "", nil }
func (constantTor) Close() error                                     { return nil }

func beSentry() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return RunChild(ctx, func(control string) Dialer {
		return func(context.Context) (Tor, io.Closer, error) {
			percent, err := strconv.Atoi(control)
			return constantTor(percent), constantTor(percent), err
		}
	}, nil)
}

func beGateWriter() error {
	if os.Getuid() == 0 {
		return errors.New("the writer is root")
	}
	gate, err := OpenGate(3, 3)
	if err != nil {
		return err
	}
	gate.Set(true)
	fmt.Println("open")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	gate.Set(false)
	fmt.Println("shut")
	return gate.Close()
}

func beDNSPort() error {
	server := &dns.Server{
		Addr: "127.0.0.1:" + os.Args[2], Net: "udp",
		Handler:           dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(torAnswer(q)) }),
		NotifyStartedFunc: func() { fmt.Println("listening") },
	}
	return server.ListenAndServe()
}

// inNamespace runs the test once more in a process and a network namespace of
// its own, where it returns true. Sockets are made on threads that Go chooses,
// so a namespace of a single thread would not do.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "TORBPF_TEST_IN_NAMESPACE"
	if os.Getenv(marker) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: it makes network namespaces")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		runtime.Gosched()
	}
}

// freeze stops a process; the signal takes effect some time after it was sent.
func freeze(t *testing.T, pid int) {
	t.Helper()
	must(t, unix.Kill(pid, unix.SIGSTOP))
	eventually(t, "it is stopped", func() bool {
		return strings.HasPrefix(procStatus(t, pid)["State"], "T")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newGates(t *testing.T) *ebpf.Map { return newMap(t, abi.DatapathMapGates) }

// newMap creates a map as bpf/maps.h describes it.
func newMap(t *testing.T, name string) *ebpf.Map {
	t.Helper()
	spec, err := abi.LoadDatapath()
	must(t, err)
	m, err := ebpf.NewMap(spec.Maps[name])
	must(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func gateIsOpen(t *testing.T, gates *ebpf.Map, instance uint32) bool {
	t.Helper()
	var gate abi.DatapathGate
	must(t, gates.Lookup(instance, &gate))
	return gate.Open != 0
}

// Addresses of the namespace's router: two on the LAN to be asked at, one on the
// WAN; and of those that live beyond its interfaces.
var (
	router4  = netip.MustParseAddr("10.66.0.1")
	second4  = netip.MustParseAddr("10.66.0.2")
	router6  = netip.MustParseAddr("fd66::1")
	second6  = netip.MustParseAddr("fd66::2")
	device4  = netip.MustParseAddr("10.66.0.5")
	another4 = netip.MustParseAddr("10.66.0.6")
	device6  = netip.MustParseAddr("fd66::5")
	wan4     = netip.MustParseAddr("198.51.100.1")
	wan6     = netip.MustParseAddr("2001:db8::1")
	foreign4 = netip.MustParseAddr("198.51.100.5")
	foreign6 = netip.MustParseAddr("2001:db8::5")

	routerLink  = netip.MustParseAddr("fe80::66")
	deviceLink  = netip.MustParseAddr("fe80::5")
	foreignLink = netip.MustParseAddr("fe80::55")

	lanPrefixes = []netip.Prefix{netip.MustParsePrefix("10.66.0.0/24"), netip.MustParsePrefix("fd66::/64")}
)

// outside is a namespace with everyone beyond the router's interfaces, which
// have the same names and indexes on both sides: eth0 is the WAN, eth1 the LAN.
// Go keeps one table of them for the whole process.
type outside struct{ fd int }

// newOutside builds both ends.
func newOutside(t *testing.T) outside {
	t.Helper()
	made := make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread stays in the new namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- -1
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			fd = -1
		}
		made <- fd
	}()
	o := outside{fd: <-made}
	if o.fd < 0 {
		t.Fatal("cannot make a network namespace")
	}
	up(t, "lo")
	for _, name := range []string{"eth0", "eth1"} {
		must(t, netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name, PeerNamespace: netlink.NsFd(o.fd),
		}))
	}
	up(t, "eth0", wan4, wan6, routerLink)
	up(t, "eth1", router4, second4, router6, second6, routerLink)
	o.do(t, func() error {
		up(t, "eth0", foreign4, foreign6, foreignLink)
		up(t, "eth1", device4, another4, device6, deviceLink)
		return nil
	})
	o.settle(t)
	return o
}

// settle waits until datagrams arrive: for some milliseconds the kernel drops
// them, to IPv6 addresses of its own as well.
func (o outside) settle(t *testing.T) {
	t.Helper()
	echo, err := net.ListenPacket("udp", ":7")
	must(t, err)
	defer echo.Close()
	for _, pair := range [][2]netip.Addr{
		{foreign4, wan4}, {foreign6, wan6}, {foreignLink.WithZone("eth0"), routerLink.WithZone("eth0")},
		{device4, router4}, {device4, second4}, {another4, router4}, {device6, router6}, {device6, second6},
		{deviceLink.WithZone("eth1"), routerLink.WithZone("eth1")},
		{wan4, wan4}, {wan6, wan6}, {router4, router4}, {router6, router6},
	} {
		to := netip.AddrPortFrom(pair[1], 7)
		var conn net.Conn
		if pair[0] == pair[1] {
			conn, err = net.Dial("udp", to.String())
		} else {
			conn, err = o.dial(t, "udp", pair[0], to)
		}
		must(t, err)
		eventually(t, fmt.Sprintf("a datagram comes from %v to %v", pair[0], pair[1]), func() bool {
			_, err := conn.Write([]byte("?"))
			must(t, err)
			must(t, echo.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			_, from, err := echo.ReadFrom(make([]byte, 1))
			return err == nil && peerOf(from) == peerOf(conn.LocalAddr())
		})
		must(t, conn.Close())
	}
}

// up sets an interface up with addresses that need no duplicate detection.
func up(t *testing.T, name string, addrs ...netip.Addr) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	for _, addr := range addrs {
		bits := 64
		if addr.Is4() {
			bits = 24
		}
		must(t, netlink.AddrAdd(link, &netlink.Addr{
			IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())},
			Flags: unix.IFA_F_NODAD,
		}))
	}
	must(t, netlink.LinkSetUp(link))
}

// do runs f on a thread in the outside namespace.
func (o outside) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(o.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	must(t, <-done)
}

// dial connects from an address of the outside to the router.
func (o outside) dial(t *testing.T, network string, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	t.Helper()
	return o.dialFrom(t, network, netip.AddrPortFrom(from, 0), to)
}

func (o outside) dialFrom(t *testing.T, network string, from, to netip.AddrPort) (conn net.Conn, err error) {
	t.Helper()
	var local net.Addr = net.TCPAddrFromAddrPort(from)
	if network == "udp" {
		local = net.UDPAddrFromAddrPort(from)
	}
	o.do(t, func() error {
		conn, err = (&net.Dialer{LocalAddr: local, Timeout: 5 * time.Second}).Dial(network, to.String())
		return nil
	})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}
