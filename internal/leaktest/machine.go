package leaktest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// nobody is a user that no rule names, and that has no privilege.
const nobody = 65534

// everyPing lets each user have a ping socket.
const everyPing = "net.ipv4.ping_group_range=0 2147483647"

// machine is the router itself: its root and a user of it.
type machine struct {
	root, user *testnet.Node
	frames     bool
}

func (m machine) node() *testnet.Node { return m.root }

func (m machine) probes(round int) []Probe { return Probes(m.root, round) }

// once sends everything as frames as well, which pass nftables.
func (m machine) once(round int, tally *Tally) error {
	probes := m.probes(round)
	for _, p := range probes {
		if !m.frames {
			break
		}
		_ = m.root.SendFrame(wan, p.frame) // what is stopped at the interface is an error
		tally.add(GroupFrames, p.packet[0]>>4 == 6)
	}
	if m.frames {
		m.lie(probes, round, tally)
	}
	return errors.Join(m.send(probes, tally, func() {}), sendAsUser(m.user, round, tally))
}

// claimed are the EtherTypes that the machine says its frames are of, whatever they hold:
// what keeps a machine on its network, the other IP, and what no guard need know of.
var claimed = []uint16{
	unix.ETH_P_ARP, unix.ETH_P_PAE, unix.ETH_P_LLDP, unix.ETH_P_PPP_DISC, unix.ETH_P_PPP_SES,
	unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_8021Q, unix.ETH_P_MPLS_UC, unix.ETH_P_802_3, unix.ETH_P_ALL,
}

// lie sends some of the frames by false EtherTypes: the kernel is told one, or the receiver.
func (m machine) lie(probes []Probe, round int, tally *Tally) {
	for i, p := range probes {
		if i%everyFrame != round%everyFrame {
			continue
		}
		for _, etherType := range claimed {
			_ = m.root.SendFrameAs(wan, etherType, p.frame)
			tally.add(GroupFrames, p.packet[0]>>4 == 6)
		}
		for _, etherType := range []uint16{unix.ETH_P_MPLS_UC, unix.ETH_P_PPP_SES, unix.ETH_P_TEB, uint16(len(p.packet))} {
			_ = m.root.SendFrame(wan, testnet.Frame(mac(testnet.MACISP), mac(testnet.MACWAN), etherType, p.packet))
			tally.add(GroupFrames, p.packet[0]>>4 == 6)
		}
	}
}

// send sends IP packets by raw sockets. What the kernel refuses has been dealt with.
func (m machine) send(probes []Probe, tally *Tally, pause func()) error {
	raw, err := openRaw(m.root)
	if err != nil {
		return err
	}
	defer raw.close()
	for begin := 0; begin < len(probes); begin += chunk {
		part := probes[begin:min(begin+chunk, len(probes))]
		for _, p := range part {
			if p.Group != GroupFrames { // the same packets
				raw.send(p.packet)
				tally.add(p.Group, p.packet[0]>>4 == 6)
			}
		}
		pause()
	}
	return nil
}

func (m machine) dial(round int, tally *Tally) {
	dialAll(m.root, round, tally)
	dialAll(m.user, round+portRounds, tally) // by names of their own
}

// rawSockets send IP packets as they are, whatever source they bear (raw(7)).
type rawSockets struct {
	v4, v6  int
	ifindex uint32 // for what stays on the link
}

func openRaw(n *testnet.Node) (*rawSockets, error) {
	r := &rawSockets{v4: -1, v6: -1}
	if link, err := n.Netlink().LinkByName(wan); err == nil { // it may have been renamed
		r.ifindex = uint32(link.Attrs().Index)
	}
	err := n.Do(func() (err error) {
		if r.v4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW); err != nil {
			return err
		}
		if r.v6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW); err != nil {
			return err
		}
		return unix.SetsockoptInt(r.v4, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	})
	if err != nil {
		r.close()
		return nil, fmt.Errorf("open raw sockets: %w", err)
	}
	return r, nil
}

func (r *rawSockets) close() {
	for _, fd := range []int{r.v4, r.v6} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// send leaves it to the kernel whether a packet goes.
func (r *rawSockets) send(packet []byte) {
	if packet[0]>>4 == 4 {
		_ = unix.Sendto(r.v4, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])})
		return
	}
	to := &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])}
	if dst := netip.AddrFrom16(to.Addr); dst.IsMulticast() || dst.IsLinkLocalUnicast() {
		to.ZoneId = r.ifindex
	}
	_ = unix.Sendto(r.v6, packet, 0, to)
}

// sendAsUser has a user send what takes no privilege: a datagram to each destination by one
// socket that is connected to none, and pings.
func sendAsUser(n *testnet.Node, round int, tally *Tally) error {
	for _, src := range []netip.Addr{n.IPv4, n.IPv6} {
		if err := datagramsOf(n, src, tally); err != nil {
			return err
		}
		if err := pingsOf(n, src, round, tally); err != nil {
			return err
		}
	}
	return nil
}

func datagramsOf(n *testnet.Node, src netip.Addr, tally *Tally) error {
	anyAddr := netip.IPv4Unspecified()
	if src.Is6() {
		anyAddr = netip.IPv6Unspecified()
	}
	conn, err := n.ListenPacket("udp", at(anyAddr, 0).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, dst := range elsewhere(src) {
		for _, port := range []uint16{testnet.PortEcho, testnet.PortDNS, 123, testnet.PortHTTPS, 5353} {
			payload := []byte("stray")
			if port == testnet.PortDNS {
				payload = Query("user-to-" + label(dst) + "." + testnet.Zone)
			}
			_, _ = conn.WriteTo(payload, net.UDPAddrFromAddrPort(at(dst, port))) // refused, as it should be
			tally.add(GroupUDP, dst.Is6())
		}
	}
	return nil
}

// pingsOf uses a ping socket (icmp(7)), which needs no privilege.
func pingsOf(n *testnet.Node, src netip.Addr, round int, tally *Tally) error {
	family, protocol, header := unix.AF_INET, unix.IPPROTO_ICMP, 20
	if src.Is6() {
		family, protocol, header = unix.AF_INET6, unix.IPPROTO_ICMPV6, 40
	}
	fd := -1
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	if err != nil {
		return fmt.Errorf("open ping socket: %w", err)
	}
	defer unix.Close(fd)
	for _, dst := range elsewhere(src) {
		ping := testnet.ICMPEcho(src, dst, uint16(round), 1)[header:]
		_ = unix.Sendto(fd, ping, 0, sockaddr(at(dst, 0)))
		tally.add(GroupICMP, dst.Is6())
	}
	return nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// allowed tells whether a packet is no leak of the router itself: a device that is not
// attached answers directly what it hears of it.
func (w *Watch) allowed(p testnet.Packet) bool {
	src := p.Src.Addr()
	return src == w.lab.Client1.IPv6 || src == w.lab.Client2.IPv6 || near(p) || answered(p)
}

// answered tells whether a packet is how the router's resolver answers who begins a
// connection. With a forged source the router itself may seem to be somebody outside, and
// with nftables gone nothing tells that nobody has come in.
func answered(p testnet.Packet) bool {
	return p.Proto == "tcp" && p.Src.Port() == testnet.PortDNS && p.TCPFlags == testnet.FlagSYN|testnet.FlagACK
}

// near tells whether a packet of the router's own never gets further than the link, so that
// client mode lets it go: to a group of the link or to all, to others with a single hop or by
// SSDP, or to a link-local address. A question for a name is none of these.
func near(p testnet.Packet) bool {
	dst := p.Dst.Addr()
	ssdp := p.Dst == netip.MustParseAddrPort("239.255.255.250:1900") && p.Proto == "udp" && p.HopLimit <= 4
	return p.Dst.Port() != testnet.PortDNS &&
		(dst.IsLinkLocalMulticast() || dst.IsMulticast() && p.HopLimit <= 1 || ssdp ||
			dst.IsLinkLocalUnicast() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}
