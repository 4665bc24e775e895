package loader

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

var gateOpen = abi.DatapathGate{Open: 1}

// What the tests send: the destination tells what becomes of it.
var (
	refusedUDP = datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(otherAddr + ":7000")}
	directUDP  = datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(directAddr + ":7000")}
	localUDP   = datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(nearAddr + ":7000")}
	torTCP     = datagram{unix.IPPROTO_TCP, netip.MustParseAddrPort(otherAddr + ":443")}
)

// datagram is a packet by protocol and destination.
type datagram struct {
	protocol uint8
	to       netip.AddrPort
}

// bytes writes the packet, IPv4 header and all. A TCP packet is a bare ACK,
// which no gate holds up.
func (d datagram) bytes(from netip.Addr) []byte {
	transport := make([]byte, 8)
	if d.protocol == unix.IPPROTO_TCP {
		transport = make([]byte, 20)
		transport[12], transport[13] = 5<<4, 0x10
	} else {
		binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
	}
	binary.BigEndian.PutUint16(transport[0:], 40000)
	binary.BigEndian.PutUint16(transport[2:], d.to.Port())
	src, dst := from.As4(), d.to.Addr().As4()
	if d.protocol == unix.IPPROTO_TCP { // conntrack would not take it otherwise
		pseudo := slices.Concat(src[:], dst[:], []byte{0, d.protocol, 0, byte(len(transport))}, transport)
		binary.BigEndian.PutUint16(transport[16:], checksum(pseudo))
	}
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, d.protocol
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(transport)))
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, transport...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// sender sends whole IPv4 packets from a namespace.
type sender struct {
	fd   int
	from netip.Addr
}

// newSender opens one in the LAN's client.
func (l *lab) newSender(t *testing.T) sender {
	t.Helper()
	s := sender{from: netip.MustParseAddr(clientAddr)}
	must(t, l.client.do(func() (err error) {
		s.fd, err = rawSocket()
		return err
	}))
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

func rawSocket() (int, error) {
	return unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
}

func (s sender) send(d datagram) error {
	return unix.Sendto(s.fd, d.bytes(s.from), 0, &unix.SockaddrInet4{Addr: d.to.Addr().As4()})
}

// capture sees all IPv4 that reaches an interface of a namespace.
type capture struct {
	fd   int
	seen map[datagram]int
	from map[datagram]netip.Addr
}

// newCapture opens one at the server.
func (l *lab) newCapture(t *testing.T) *capture {
	t.Helper()
	fd := -1
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
	must(t, l.server.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: l.srvIf})
	}))
	t.Cleanup(func() { unix.Close(fd) })
	return &capture{fd: fd, seen: map[datagram]int{}, from: map[datagram]netip.Addr{}}
}

// read takes in what has arrived.
func (c *capture) read() {
	buffer := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(c.fd, buffer, 0)
		if err != nil {
			return
		}
		ip := buffer[:n]
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype == unix.PACKET_OUTGOING || n < 24 || ip[0] != 0x45 {
			continue
		}
		d := datagram{protocol: ip[9], to: netip.AddrPortFrom(
			netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(ip[22:24]))}
		c.seen[d]++
		c.from[d] = netip.AddrFrom4([4]byte(ip[12:16]))
	}
}

// arrives sends a packet until it is seen: the first may wait for ARP.
func (c *capture) arrives(t *testing.T, s sender, d datagram) {
	t.Helper()
	before := c.seen[d]
	await(t, "packet to "+d.to.String(), func() bool {
		must(t, s.send(d))
		c.read()
		return c.seen[d] > before
	})
}

// packets returns what was counted.
func packets(t *testing.T, d *Datapath, ifindex int, verdict abi.Verdict, reason abi.Reason) uint64 {
	t.Helper()
	counters, err := d.Counters()
	must(t, err)
	for _, c := range counters {
		if c.Ifindex == uint32(ifindex) && c.Verdict == verdict && c.Reason == reason {
			return c.Packets
		}
	}
	return 0
}

// counted sends a packet and waits until it was counted once more.
func counted(t *testing.T, d *Datapath, s sender, p datagram, ifindex int, verdict abi.Verdict, reason abi.Reason) {
	t.Helper()
	before := packets(t, d, ifindex, verdict, reason)
	must(t, s.send(p))
	await(t, "counter of packets to "+p.to.String(), func() bool {
		return packets(t, d, ifindex, verdict, reason) == before+1
	})
}
