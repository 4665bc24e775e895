package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/testnet"
)

// Behind the server, excluded; and the addresses of the WAN, which hide the client's.
const (
	fastAddr6   = "2a0e:9::9"
	wanAddr6    = "2a0e:10::2"
	serverAddr6 = "2a0e:10::1"
	clientAddr6 = "fd50::11"
	fastPort    = 5000
)

// fastLab is a lab whose user masquerades both families and has conntrack look at all.
type fastLab struct {
	*lab
	d     *Datapath
	p     *plan.Plan
	ports []plan.Link // for frames
}

func newFastLab(t *testing.T) *fastLab {
	t.Helper()
	l := newLab(t)
	address(t, l.wan, []string{wanAddr6 + "/64"}, "")
	must(t, l.server.do(func() error {
		return errors.Join(addAddress("peer", serverAddr6+"/64"), addAddress("lo", directAddr+"/32"), addAddress("lo", fastAddr6+"/128"))
	}))
	for _, gateway := range []struct {
		in func(func() error) error
		to string
		by string
	}{{l.client.do, "::/0", "fd50::1"}, {inRouter, "2a0e:9::/64", serverAddr6}} {
		must(t, gateway.in(func() error {
			dst, err := netlink.ParseIPNet(gateway.to)
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway.by)})
		}))
	}
	run(t, `nft add table inet users
		nft add chain inet users nat { type nat hook postrouting priority srcnat ; }
		nft add rule inet users nat oifname wan0 masquerade
		nft add chain inet users forward { type filter hook forward priority filter ; }
		nft add rule inet users forward ct state invalid drop`)
	sysctl(t, "netfilter/nf_conntrack_tcp_be_liberal", "1") // as internal/router does
	f := &fastLab{lab: l, d: l.open(t, false), p: l.plan()}
	f.p.Fast = true
	f.p.Rules = config.DirectPrefixes(config.KindDestination, prefixes("62.10.9.0/24", "2a0e:9::/64")...)
	f.attach(t)
	return f
}

func inRouter(f func() error) error { return f() }

// attach applies the plan, and lets the fast path be used for as long as the test takes.
func (l *fastLab) attach(t *testing.T) {
	t.Helper()
	g := guards(t, l.d, l.p)
	attachLANs(t, g)
	if l.p.Fast && !g.HasFast() {
		if g.NoFast() == "" {
			t.Fatal("no fast path, and no reason why")
		}
		needKfuncs(t)
		t.Fatalf("no fast path: %s", g.NoFast())
	}
	if l.p.Fast {
		must(t, l.d.PermitFast(0, time.Hour, l.ports...))
	}
}

// useFrames has UDP go by XDP. The far ends have to take frames.
func (l *fastLab) useFrames(t *testing.T) {
	t.Helper()
	for _, ns := range []namespace{l.client, l.server} {
		must(t, ns.do(func() error { return setFeature("peer", setGRO, true) }))
	}
	l.p.LANs[0].Early, l.p.Uplinks[0].Frames = plan.EarlyNative, plan.EarlyNative
	for _, link := range []netlink.Link{l.lan, l.wan} {
		port := plan.Link{Index: link.Attrs().Index}
		copy(port.MAC[:], link.Attrs().HardwareAddr)
		l.ports = append(l.ports, port)
	}
	l.attach(t)
	for _, port := range l.ports {
		if takes, err := l.d.TakesFrames(port.Index); !takes || err != nil {
			t.Fatalf("interface %d takes frames: %t, %v", port.Index, takes, err)
		}
	}
}

// needKfuncs goes by the version: a newer kernel without them fails the tests.
func needKfuncs(t *testing.T) {
	t.Helper()
	if version, err := features.LinuxVersionCode(); err == nil && version < 5<<16|18<<8 {
		t.Skip("this kernel is older than programs that ask conntrack (Linux 5.18)")
	}
}

func (l *fastLab) fast(t *testing.T) Fast {
	t.Helper()
	f, err := l.d.Fast()
	must(t, err)
	return f
}

func addAddress(name, text string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return configure(l, []string{text}, "")
}

// Commands of linux/ethtool.h.
const (
	setTxChecksum = 0x17 // has the card complete checksums of what leaves; else the kernel does
	setGRO        = 0x2c // veth has NAPI with it, and takes frames
)

// setFeature switches a feature of an interface of the calling thread's namespace.
func setFeature(name string, command uint32, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{command, setting(on)}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:], name)
	request.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("set feature of %s: %w", name, errno)
	}
	return nil
}

// talk is a flow between the client and the server.
type talk struct {
	client, server net.Conn
	heard          *wire // what reaches the server, and the client
	answered       *wire
}

// talk opens a flow and has it go both ways by the fast path.
func (l *fastLab) talk(t *testing.T, network string) *talk {
	t.Helper()
	to := netip.MustParseAddr(directAddr)
	if network[len(network)-1] == '6' {
		to = netip.MustParseAddr(fastAddr6)
	}
	k := &talk{}
	if network[:3] == "tcp" {
		k.client, k.server = l.dial(t, network, to)
	} else {
		k.client, k.server = l.exchange(t, network, to)
	}
	before := l.fast(t)
	await(t, network+" to be fast", func() bool {
		k.say(t, 64)
		now := l.fast(t)
		return now.Out > before.Out+5 && now.In > before.In+5
	})
	k.heard, k.answered = tapOf(t, l.server), tapOf(t, l.client)
	return k
}

func (l *fastLab) dial(t *testing.T, network string, to netip.Addr) (client, server net.Conn) {
	t.Helper()
	var listener net.Listener
	must(t, l.server.do(func() (err error) {
		listener, err = net.Listen(network, netip.AddrPortFrom(to, fastPort).String())
		return err
	}))
	defer listener.Close()
	must(t, l.client.do(func() (err error) {
		client, err = net.Dial(network, listener.Addr().String())
		return err
	}))
	server, err := listener.Accept()
	must(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// exchange opens sockets of UDP that are connected to each other, as each sees the other.
func (l *fastLab) exchange(t *testing.T, network string, to netip.Addr) (client, server net.Conn) {
	t.Helper()
	var first net.PacketConn
	must(t, l.server.do(func() (err error) {
		first, err = net.ListenPacket(network, netip.AddrPortFrom(to, fastPort).String())
		return err
	}))
	must(t, l.client.do(func() (err error) {
		client, err = net.Dial(network, first.LocalAddr().String())
		return err
	}))
	_, err := client.Write([]byte("hello"))
	must(t, err)
	_, from, err := first.ReadFrom(make([]byte, 16))
	must(t, errors.Join(err, first.Close()))
	must(t, l.server.do(func() (err error) {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, fastPort))}
		server, err = d.Dial(network, from.String())
		return err
	}))
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// say sends so many bytes there and back.
func (k *talk) say(t *testing.T, size int) {
	t.Helper()
	text, buffer := slices.Repeat([]byte("x"), size), make([]byte, size)
	for _, way := range []struct{ from, to net.Conn }{{k.client, k.server}, {k.server, k.client}} {
		wrote := make(chan error, 1)
		go func() {
			_, err := way.from.Write(text)
			wrote <- err
		}()
		must(t, way.to.SetReadDeadline(time.Now().Add(testnet.Patience(10*time.Second))))
		for got := 0; got < size; {
			n, err := way.to.Read(buffer)
			must(t, err)
			got += n
		}
		must(t, <-wrote)
	}
}

// wire sees the IP packets that come in by the interface "peer" of a namespace.
type wire struct{ fd int }

func tapOf(t *testing.T, ns namespace) *wire {
	t.Helper()
	w := &wire{}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	must(t, ns.do(func() (err error) {
		peer, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: peer.Attrs().Index})
	}))
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// read returns what has come in of TCP and UDP.
func (w *wire) read() []ipPacket {
	var out []ipPacket
	for buffer := make([]byte, 65536); ; {
		n, from, err := unix.Recvfrom(w.fd, buffer, 0)
		if err != nil {
			return out
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p, ok := parseIP(slices.Clone(buffer[:n])); ok {
			out = append(out, p)
		}
	}
}

// ipPacket is one of TCP or UDP.
type ipPacket struct {
	src, dst netip.Addr
	protocol uint8
	hops     uint8
	right    bool // the checksums are
	flags    uint8
}

func parseIP(b []byte) (p ipPacket, ok bool) {
	if len(b) < 20 {
		return p, false
	}
	var l4, pseudo []byte
	p.right = true
	switch b[0] >> 4 {
	case 4:
		header := int(b[0]&15) * 4
		p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.protocol, p.hops, p.right = b[9], b[8], checksum(b[:header]) == 0
		l4, pseudo = b[header:], b[12:20]
	case 6:
		p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.protocol, p.hops = b[6], b[7]
		l4, pseudo = b[40:], b[8:40]
	}
	if p.protocol != unix.IPPROTO_TCP && p.protocol != unix.IPPROTO_UDP || len(l4) < 8 {
		return p, false
	}
	if p.protocol == unix.IPPROTO_TCP {
		p.flags = l4[13]
	}
	sum := slices.Concat(pseudo, []byte{0, p.protocol}, binary.BigEndian.AppendUint16(nil, uint16(len(l4))), l4)
	if len(sum)%2 > 0 {
		sum = append(sum, 0)
	}
	p.right = p.right && checksum(sum) == 0
	return p, true
}
