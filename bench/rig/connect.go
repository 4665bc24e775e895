package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/report"
)

const transPort = 9040

// site is where new connections are to go: to Tor, so to a listener in place of TransPort.
var site = netip.AddrPortFrom(netip.MustParseAddr("51.20.0.80"), 443)

// ConnectRow is new TCP connections of a device that are Tor's, so many in a turn: socket,
// handshake, accept, the question where it was to go, and a reset.
func ConnectRow(connections int) Row {
	return Row{
		Row:     report.Row{Name: "connect", Title: "new connection to TransPort", Unit: report.Microseconds, Base: NFT},
		Configs: []string{NFT, Torbpf},
		prepare: func(p *Path) (func() error, error) {
			var err error
			p.trans, err = listen(p.Router, netip.AddrPortFrom(netip.IPv4Unspecified(), transPort))
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
	return errors.Join(askTarget(accepted), unix.Close(accepted))
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
