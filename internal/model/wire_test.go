package model

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/testnet"
)

// patience is how long a test waits for what must happen.
var patience = testnet.Patience(5 * time.Second)

// stationMAC is the router's in these tests, where a MAC of zeros would not do.
var stationMAC = [6]byte{0x02, 0, 0, 0, 0, 0x01}

// wire is a cable between lan0, which is the router's, and host0, which has no
// address and sends and receives what the test likes.
//
//	test ── host0 ════ lan0 (192.168.1.1, fd00:1::1) ── the programs
type wire struct {
	*objects
	t      *testing.T
	lan    int
	socket int
	host   int
}

// lay makes the cable in a new network namespace, with the home as its policy.
func lay(t *testing.T) *wire {
	t.Helper()
	enterNamespace(t)
	command(t, `
		ip link set lo up
		ip link add lan0 mtu 9000 type veth peer name host0 mtu 9000
		ip link set lan0 address 02:00:00:00:00:01 addrgenmode none up
		ip link set host0 addrgenmode none up
		ip addr add 192.168.1.1/24 broadcast 192.168.1.255 dev lan0
		ip addr add fd00:1::1/64 dev lan0 nodad
		ip addr add fe80::1/64 dev lan0 nodad`)
	w := &wire{objects: load(t, 24), t: t, lan: ifindex(t, "lan0"), host: ifindex(t, "host0")}
	w.set(home())
	w.put("lans", uint32(w.lan), abi.DatapathLan{Addr4Be: be4(routerAddr4), Addr6: routerAddr6.As16()})
	var err error
	if w.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatalf("open packet socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(w.socket) })
	all := &unix.SockaddrLinklayer{Ifindex: w.host, Protocol: bePort(unix.ETH_P_ALL)}
	if err := unix.Bind(w.socket, all); err != nil {
		t.Fatalf("bind packet socket: %v", err)
	}
	return w
}

func ifindex(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Index
}

// command runs commands of one line each in the namespace of this thread.
func command(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.TrimSpace(line), err, out)
		}
	}
}

// attach attaches a program to the ingress of an interface.
func (w *wire) attach(program string, ifindex int) {
	w.t.Helper()
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: ifindex, Program: w.progs[program], Attach: ebpf.AttachTCXIngress,
	})
	if errors.Is(err, ebpf.ErrNotSupported) && olderThan(w.t, 6, 6) {
		w.t.Skip("this kernel is older than tcx (Linux 6.6)")
	}
	if err != nil {
		w.t.Fatalf("attach %s: %v", program, err)
	}
	w.t.Cleanup(func() { l.Close() })
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if err := unix.Sendto(w.socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.host}); err != nil {
		w.t.Fatalf("send %d bytes: %v", len(frame), err)
	}
}

// sendTo sends a packet in a frame to the router.
func (w *wire) sendTo(dst [6]byte, packet []byte, tags ...uint32) {
	w.t.Helper()
	w.send(etherTo(dst, hostMAC, packet, tags...))
}

// await waits until a counter has grown by one packet since before.
func (w *wire) await(key counted, before uint64) error {
	deadline, tick := time.After(patience), time.Tick(time.Millisecond)
	for {
		now, err := w.count(key)
		if err != nil {
			return err
		}
		if now == before+1 {
			return nil
		}
		select {
		case <-deadline:
			return fmt.Errorf("%s, %s was counted %d times, want once: %v", key.verdict, key.reason, now-before, w.tally())
		case <-tick:
		}
	}
}

// expect sends a frame and waits until it is counted for its reason.
func (w *wire) expect(name string, ifindex int, reason abi.Reason, frame []byte) {
	w.t.Helper()
	key := counted{uint32(ifindex), reason.Verdict(), reason}
	before, err := w.count(key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.send(frame)
	if err := w.await(key, before); err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
}

// receive returns the next frame from the router to hostMAC.
func (w *wire) receive() []byte {
	w.t.Helper()
	timeout := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(w.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		w.t.Fatal(err)
	}
	buffer := make([]byte, 10000)
	for {
		n, from, err := unix.Recvfrom(w.socket, buffer, 0)
		if err != nil {
			w.t.Fatalf("receive an answer: %v", err)
		}
		sent := from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING
		if !sent && slices.Equal(buffer[:6], hostMAC[:]) {
			return slices.Clone(buffer[:n])
		}
	}
}

// TestTagsThatTheKernelTookOff: on a wire the outermost tag reaches the program
// as metadata.
func TestTagsThatTheKernelTookOff(t *testing.T) {
	w := lay(t)
	w.attach("torbpf_lan", w.lan)
	query := ip(laptop4, excluded4, udp(40000, 53, dnsQuery()...))
	for _, c := range []struct {
		name string
		tags []uint32
		want abi.Reason
	}{
		{"no tag", nil, abi.ReasonDNSUDP},
		{"priority tag", []uint32{0x8100_e000}, abi.ReasonDNSUDP},
		{"priority tag, 802.1ad", []uint32{0x88a8_0000}, abi.ReasonDNSUDP},
		{"two priority tags", []uint32{0x8100_0000, 0x8100_0000}, abi.ReasonDNSUDP},
		{"three priority tags", []uint32{0x8100_0000, 0x8100_0000, 0x8100_0000}, abi.ReasonMalformed},
		{"another VLAN", []uint32{0x8100_0064}, abi.ReasonOtherVLAN},
		{"another VLAN, 802.1ad", []uint32{0x88a8_0064, 0x8100_0001}, abi.ReasonOtherVLAN},
		{"priority tag, then another VLAN", []uint32{0x8100_0000, 0x8100_0064}, abi.ReasonOtherVLAN},
	} {
		w.expect(c.name, w.lan, c.want, etherTo(stationMAC, hostMAC, query, c.tags...))
		if len(c.tags) == 0 {
			continue
		}
		inner := etherTo(stationMAC, hostMAC, query, c.tags[1:]...)
		k := Parse(inner, true, Metadata{Protocol: stackProtocol(inner), Tagged: true, VLAN: uint16(c.tags[0] & 0xfff)})
		if _, got := home().Judge(k); got != c.want {
			t.Errorf("%s: the model says %s, want %s", c.name, got, c.want)
		}
	}
}

// TestAnswersArriveOnTheWire sends what the kernel's test run cannot: jumbo
// frames and tags in the metadata.
func TestAnswersArriveOnTheWire(t *testing.T) {
	w := lay(t)
	w.attach("torbpf_lan", w.lan)
	for _, c := range []struct {
		name   string
		packet []byte
		tags   []uint32
		want   answer
	}{
		{"UDP, jumbo", ip(laptop4, web4, udp(40000, 27015, make([]byte, 8000)...)), nil, unreachable},
		{"UDP, jumbo, IPv6", ip(laptop6, web6, udp(40000, 27015, make([]byte, 8000)...)), nil, unreachable},
		{"TCP, jumbo", ip(laptop4, private4, tcp(40000, 27015, tcpSYN, make([]byte, 8000)...)), nil, reset},
		{"UDP behind a priority tag", ip(laptop4, web4, udp(40000, 27015)), []uint32{0x8100_0000}, unreachable},
	} {
		w.sendTo(stationMAC, c.packet, c.tags...)
		got := w.receive()
		t.Run(c.name, func(t *testing.T) { checkAnswer(t, c.want, c.packet, got[14:]) })
	}
}
