package loader

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

func TestInjectedFrameIsJudgedLikeAnyOther(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	server := l.newCapture(t)
	server.arrives(t, l.newSender(t), directUDP)
	before := server.seen[directUDP]
	ethernet := slices.Concat(l.lan.Attrs().HardwareAddr, []byte{2, 0, 0, 0, 0, 1, 0x08, 0x00})
	from := netip.MustParseAddr(clientAddr)
	for p, reason := range map[datagram]abi.Reason{refusedUDP: abi.ReasonUDP, directUDP: abi.ReasonDirectDestination} {
		if err := Inject(l.lan.Attrs().Index, slices.Concat(ethernet, p.bytes(from)), 0); err != nil {
			t.Fatal(err)
		}
		await(t, "packet to be counted", func() bool {
			return packets(t, d, l.lan.Attrs().Index, verdictOf[reason], reason) > 0
		})
	}
	await(t, "direct packet to arrive", func() bool {
		server.read()
		return server.seen[directUDP] > before
	})
	if err := Inject(4711, slices.Concat(ethernet, directUDP.bytes(from)), 0); err == nil {
		t.Error("no error about an interface that is not there")
	}
}

var verdictOf = map[abi.Reason]abi.Verdict{
	abi.ReasonUDP:               abi.VerdictRefused,
	abi.ReasonDirectDestination: abi.VerdictDirect,
}

// A tunnel's packets have no Ethernet header: other programs judge them.
func TestLANWithoutEthernetHeader(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			tun, index := newTun(t)
			d := l.open(t, mode.clsact)
			p := l.plan()
			addTunnel(p, index)
			apply(t, d, p)
			server := l.newCapture(t)
			server.arrives(t, l.newSender(t), directUDP)
			before := server.seen[directUDP]
			from := netip.MustParseAddr("192.168.99.11")
			for p, reason := range map[datagram]abi.Reason{refusedUDP: abi.ReasonUDP, directUDP: abi.ReasonDirectDestination} {
				write(t, tun, p.bytes(from))
				await(t, "packet to be counted", func() bool {
					return packets(t, d, index, verdictOf[reason], reason) == 1
				})
			}
			await(t, "direct packet to arrive", func() bool {
				server.read()
				return server.seen[directUDP] > before
			})
		})
	}
}

// addTunnel makes a tunnel of newTun's a LAN of a plan.
func addTunnel(p *plan.Plan, index int) {
	p.LANs = append(p.LANs, plan.LAN{Name: "tun0", Index: index, Addr4: netip.MustParseAddr("192.168.99.1")})
	p.Local = append(p.Local, plan.LocalSubnet{Prefix: netip.MustParsePrefix("192.168.99.0/24"), Index: index, Name: "tun0"})
}

func write(t *testing.T, fd int, packet []byte) {
	t.Helper()
	_, err := unix.Write(fd, packet)
	must(t, err)
}

// newTun returns the user's end of a tunnel and the index of the router's.
func newTun(t *testing.T) (fd, index int) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	request, err := unix.NewIfreq("tun0")
	must(t, err)
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	link, err := netlink.LinkByName("tun0")
	must(t, err)
	must(t, configure(link, []string{"192.168.99.1/24"}, ""))
	sysctl(t, "ipv4/conf/tun0/rp_filter", "0")
	return fd, link.Attrs().Index
}
