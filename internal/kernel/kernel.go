// Package kernel holds what the parts of torbpf that talk to the kernel do
// alike: telling that it lacks something, listing what changes meanwhile, the clock. It
// knows none of them, and they need not know one another for it.
package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrMissing marks what this kernel cannot do or the caller may not. It has an
// exit code of its own.
var ErrMissing = errors.New("kernel feature or privilege missing")

// lacking are the errors by which the kernel says that it knows no such thing.
var lacking = []unix.Errno{unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT}

// Explain marks an error as ErrMissing, and says what is needed, if the kernel
// lacks it or does not let us. The caller adds errors that say so of what it
// asked for alone. Any other error, and nil, it returns as it is.
func Explain(err error, needs string, also ...unix.Errno) error {
	switch {
	case errors.Is(err, ErrMissing):
		return err
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (%w): run torbpf as root, with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN", err, ErrMissing)
	case slices.ContainsFunc(append(also, lacking...), func(e unix.Errno) bool { return errors.Is(err, e) }):
		return Lacks(err, needs)
	default:
		return err
	}
}

// Lacks marks an error that says that the kernel lacks something.
func Lacks(err error, needs string) error {
	return fmt.Errorf("%w (%w): torbpf needs %s", err, ErrMissing, needs)
}

// attempts bounds how often a torn listing is read anew.
const attempts = 16

// Whole repeats a netlink listing that the kernel reports as torn by a
// concurrent change: half a listing could lack the very thing that is asked for.
func Whole[T any](list func() (T, error)) (T, error) {
	var all, none T
	var err error
	for range attempts {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return none, err
	}
	return all, nil
}

// HasIPv6 says whether the kernel knows IPv6 at all: with ipv6.disable=1 there
// are neither sockets nor packets of it.
func HasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return !errors.Is(err, unix.EAFNOSUPPORT)
	}
	unix.Close(fd)
	return true
}

// HasLoopback6 says whether this machine has ::1, in the network namespace of the calling
// thread: with net.ipv6.conf.lo.disable_ipv6 it has not, and no route of IPv6 leads to lo.
func HasLoopback6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}) == nil
}
