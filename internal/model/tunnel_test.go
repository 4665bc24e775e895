package model

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// openTunnel makes a tun device whose far end is the file, one packet a read
// or write.
func openTunnel(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("open /dev/net/tun: %v", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatalf("make tun device %s: %v", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { file.Close() })
	return file
}

// TestTunnelsGetTheirAnswers runs the program without Ethernet where it is at
// home.
func TestTunnelsGetTheirAnswers(t *testing.T) {
	w := lay(t)
	far := openTunnel(t, "tun0")
	command(t, `
		ip link set tun0 addrgenmode none up
		ip addr add 10.99.0.1/24 dev tun0`)
	tun := ifindex(t, "tun0")
	w.put("lans", uint32(tun), abi.DatapathLan{Addr4Be: be4(routerAddr4), Addr6: routerAddr6.As16()})
	w.attach("torbpf_lan_l3", tun)
	down := home()
	down.GateOpen = false
	for _, c := range []struct {
		name   string
		policy *Policy
		packet []byte
		want   answer
	}{
		{"TCP", home(), ip(laptop4, private4, tcp(40000, 80, tcpSYN)), reset},
		{"TCP, IPv6", home(), ip(laptop6, private6, tcp(40000, 80, tcpSYN)), reset},
		{"UDP", home(), ip(laptop4, web4, udp(40000, 27015)), unreachable},
		{"UDP, IPv6", home(), ip(laptop6, web6, udp(40000, 27015)), unreachable},
		{"ping", home(), ip(laptop4, web4, ping()), prohibited},
		{"ping, IPv6", home(), ip(laptop6, web6, ping6()), prohibited},
		{"DNS while Tor is down", down, ip(laptop4, web4, udp(40000, 53, dnsQuery()...)), servfail},
		{"DNS while Tor is down, IPv6", down, ip(laptop6, web6, udp(40000, 53, dnsQuery()...)), servfail},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.set(c.policy)
			if _, err := far.Write(c.packet); err != nil {
				t.Fatal(err)
			}
			checkAnswer(t, c.want, c.packet, nextTo(t, far, c.packet))
		})
	}
}

// nextTo returns the next packet to the sender of one: the kernel talks of its
// own on the device, too.
func nextTo(t *testing.T, far *os.File, packet []byte) []byte {
	t.Helper()
	if err := far.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	sender := readReply(t, packet).src
	buffer := make([]byte, 2000)
	for {
		n, err := far.Read(buffer)
		if err != nil {
			t.Fatalf("wait for the answer: %v", err)
		}
		if got := buffer[:n]; got[0]>>4 == packet[0]>>4 && readReply(t, got).dst == sender {
			return got
		}
	}
}
