package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// PPPoE here is the kernel's, as behind pppd, without what ends agree upon before: a session of
// that number is there, and carries IPv4 and IPv6.
const pppoeSession = 7

// hasPPPoE tells whether the kernel has sockets of PPPoE.
func hasPPPoE(*testnet.Lab) bool {
	fd, err := unix.Socket(unix.AF_PPPOX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == nil
}

// openPPPoE has both ends of the WAN's link carry a session, by a ppp0 of each.
func openPPPoE(t *testing.T, lab *testnet.Lab) { t.Helper(); pppoeUpon(t, lab, "wan0", wan) }

func openPPPoEUponVLAN(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	for node, below := range map[*testnet.Node]string{lab.ISP: "wan0", lab.Router: wan} {
		run(t, node, "bash", "-ec", fmt.Sprintf("ip link add link %[1]s name %[1]s.7 type vlan id 7; ip link set %[1]s.7 up", below))
	}
	pppoeUpon(t, lab, "wan0.7", wan+".7")
}

func pppoeUpon(t *testing.T, lab *testnet.Lab, isp, router string) {
	t.Helper()
	for _, end := range []struct {
		node      *testnet.Node
		name, far string
	}{{lab.ISP, isp, testnet.MACWAN}, {lab.Router, router, testnet.MACISP}} {
		far, err := net.ParseMAC(end.far)
		if err != nil {
			t.Fatal(err)
		}
		if err := end.node.Do(func() error { return makePPPoE(t, end.name, far) }); err != nil {
			t.Fatalf("PPPoE of %s: %v", end.node.Name, err)
		}
		run(t, end.node, "ip", "link", "set", "ppp0", "mtu", "1492")
	}
}

// makePPPoE makes a ppp0 of this namespace, until the test ends.
func makePPPoE(t *testing.T, below string, far net.HardwareAddr) error {
	session, err := unix.Socket(unix.AF_PPPOX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket of PPPoE: %w", err)
	}
	t.Cleanup(func() { _ = unix.Close(session) })
	if err := unix.Connect(session, &unix.SockaddrPPPoE{SID: pppoeSession, Remote: far, Dev: below}); err != nil {
		return fmt.Errorf("begin a session by %s: %w", below, err)
	}
	channel, err := unix.IoctlGetInt(session, unix.PPPIOCGCHAN)
	if err != nil {
		return fmt.Errorf("get its channel: %w", err)
	}
	var fds [2]int // of the channel, and of the interface
	for i := range fds {
		f, err := os.OpenFile("/dev/ppp", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { f.Close() })
		fds[i] = int(f.Fd())
	}
	unit := 0 // ppp0
	return errors.Join(
		unix.IoctlSetPointerInt(fds[0], unix.PPPIOCATTCHAN, channel),
		unix.IoctlSetPointerInt(fds[1], unix.PPPIOCNEWUNIT, unit),
		unix.IoctlSetPointerInt(fds[0], unix.PPPIOCCONNECT, unit))
}
