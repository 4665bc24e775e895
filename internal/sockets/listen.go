package sockets

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenFor listens for TCP at an address that need not be this machine's (IP_TRANSPARENT).
func ListenFor(at netip.AddrPort) (net.Listener, error) {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if at.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		outside := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(outside, err)
	}}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", at.String())
}
