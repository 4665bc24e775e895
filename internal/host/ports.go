package host

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// Conflict is a port that somebody holds. Who does is found on a best effort:
// the zero Addr and PID mean unknown.
type Conflict struct {
	Protocol string // "tcp" or "udp"
	Port     uint16
	Addr     netip.Addr // the address it is bound to
	PID      int
	Process  string
}

// String says it as an error message would: "tcp port 9040 is held by tor (pid 7)".
func (c Conflict) String() string {
	s := fmt.Sprintf("%s port %d is ", c.Protocol, c.Port)
	if c.PID == 0 {
		return s + "in use"
	}
	return s + fmt.Sprintf("held by %s (pid %d)", c.Process, c.PID)
}

// PortsInUse returns the ports that tor or the sentry could not listen on,
// because something in this namespace is bound to them on any address. The
// kernel is asked by binding, as tables of sockets do not list all that bind.
// Port 0 is nobody's.
func PortsInUse(all ...plan.Ports) ([]Conflict, error) {
	var conflicts []Conflict
	for _, ports := range all {
		for _, want := range []struct {
			protocol string
			port     uint16
		}{
			{"tcp", ports.Trans}, {"udp", ports.DNS}, {"tcp", ports.Resolver}, {"udp", ports.Resolver},
		} {
			used, err := portInUse(want.protocol, want.port)
			if err != nil {
				return nil, err
			}
			if used {
				conflicts = append(conflicts, findHolder(want.protocol, want.port))
			}
		}
	}
	return conflicts, nil
}

func portInUse(protocol string, port uint16) (bool, error) {
	for _, wildcard := range []unix.Sockaddr{
		&unix.SockaddrInet4{Port: int(port)}, &unix.SockaddrInet6{Port: int(port)},
	} {
		err := tryBind(protocol, wildcard)
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			return true, nil
		case errors.Is(err, unix.EAFNOSUPPORT):
			continue // no IPv6, so nobody is bound there
		case err != nil:
			return false, fmt.Errorf("try %s port %d: %w", protocol, port, err)
		}
	}
	return false, nil
}

// tryBind binds to a wildcard address and lets go of it again.
func tryBind(protocol string, wildcard unix.Sockaddr) error {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if _, v6 := wildcard.(*unix.SockaddrInet6); v6 {
		family = unix.AF_INET6
	}
	if protocol == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Like a server would: the closed connections of a listener that is gone
	// are no obstacle. For UDP the option means sharing with whoever sets it,
	// too, so it stays off.
	if kind == unix.SOCK_STREAM {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, wildcard)
}
