package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

const transPort = 9040

// site is where new connections are to go: to Tor, so to a listener in place of TransPort.
var site = netip.AddrPortFrom(netip.MustParseAddr("51.20.0.80"), 443)

// ConnectRow is new TCP connections of a device that are Tor's, so many in a turn: socket,
// handshake, accept, the question where it was to go, and a reset.
func ConnectRow(connections int) Row {
	return Row{
		Row:     report.Row{Name: "connect", Title: "new connection to TransPort", Unit: report.Microseconds, Base: NFT},
		Configs: []string{NFT, Torbpf, TProxy},
		prepare: func(p *Path) (func() error, error) {
			var err error
			p.trans, err = p.listenAsTor()
			return func() error { return unix.Close(p.trans) }, err
		},
		measure: func(_ context.Context, d *Driver, p *Path) (float64, error) {
			took, err := d.time(p.Device, func() error {
				for range connections {
					if err := p.connectOnce(); err != nil {
						return err
					}
				}
				return nil
			})
			return float64(took.Nanoseconds()) / 1000 / float64(connections), err
		},
	}
}

// ToTransRow is one TCP connection of a device's that is Tor's, with so many bytes to what is in
// place of TransPort at a time.
func ToTransRow(bytes int) Row {
	return Row{
		Row: report.Row{Name: "trans-bulk", Title: "bulk TCP to TransPort, one connection", Unit: report.GigabitsPerSecond,
			Higher: true, Base: NFT},
		Configs: []string{NFT, Torbpf, TProxy},
		prepare: func(p *Path) (func() error, error) {
			listener, err := p.listenAsTor()
			if err != nil {
				return nil, err
			}
			if p.stream, err = openStream(p.Device, listener, site); err != nil {
				return nil, err
			}
			return p.stream.close, p.stream.neverSlow(p.Device)
		},
		measure: measureStream(bytes),
	}
}

// listenAsTor listens where what is Tor's gets to.
func (p *Path) listenAsTor() (fd int, err error) {
	if p.Config.Name != TProxy {
		return listen(p.Router, netip.AddrPortFrom(netip.IPv4Unspecified(), transPort))
	}
	if fd, err = listen(p.Router, netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", transPort))); err != nil {
		return -1, err
	}
	mark := plan.Mark{Shift: config.Default().MarkShift}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark.Class(uint32(abi.VerdictTor)))),
		p.Router.Do(func() error {
			ns, err := host.Namespace()
			if err != nil {
				return err
			}
			d := loader.Open(loader.Options{Root: p.pinRoot, Namespace: ns.Name})
			return d.HandTo(loader.Listener{}, fd)
		}))
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen as tor: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// connectOnce runs in the device's namespace; the listener is the router's.
func (p *Path) connectOnce() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A reset leaves nothing in TIME_WAIT, of which thousands would gather.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: site.Addr().As4(), Port: int(site.Port())}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	accepted, _, err := unix.Accept4(p.trans, unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	ask := askTarget
	if p.Config.Name == TProxy {
		ask = askSocket
	}
	return errors.Join(ask(accepted), unix.Close(accepted))
}

// askTarget does what tor does with each connection: it finds out where that was to go.
func askTarget(accepted int) error {
	const original = 80 // SO_ORIGINAL_DST, of which the address is in place of the group
	to, err := unix.GetsockoptIPv6Mreq(accepted, unix.SOL_IP, original)
	if err != nil {
		return fmt.Errorf("ask where a connection was to go: %w", err)
	}
	if addr := netip.AddrFrom4([4]byte(to.Multiaddr[4:8])); addr != site.Addr() {
		return fmt.Errorf("a connection to %v was taken for one to %v", site, addr)
	}
	return nil
}

// askSocket is askTarget where nothing was redirected.
func askSocket(accepted int) error {
	at, err := unix.Getsockname(accepted)
	if err != nil {
		return fmt.Errorf("ask where a connection was to go: %w", err)
	}
	if to, ok := at.(*unix.SockaddrInet4); !ok || netip.AddrFrom4(to.Addr) != site.Addr() {
		return fmt.Errorf("a connection to %v was taken for another", site)
	}
	return nil
}
