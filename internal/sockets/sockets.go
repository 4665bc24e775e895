// Package sockets reaches the open sockets of this machine's processes: to give those that
// are older than torbpf's programs the mark that newer ones get when they are made, to have
// TCP handed to those that tor listens with, and to end connections.
//
// A process's descriptor is copied (pidfd_getfd, Linux 5.6): what is set on the copy is
// set on the socket.
package sockets

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket is one of IPv4 or IPv6.
type Socket struct {
	Owner     *Process // the first that was found to have it
	TCP       bool
	Listening bool
	OnlyIPv6  bool // takes no IPv4, where it is IPv6's and listens
	Local     netip.AddrPort
	Remote    netip.AddrPort // invalid where it is not connected
	Mark      uint32

	fd int
}

// Each hands every socket of the processes in the calling thread's network namespace to
// visit. Processes that end meanwhile are left out.
func Each(visit func(*Socket) error) error {
	seen := make(map[string]bool)
	return eachPID(func(pid int) error {
		if err := eachOf(pid, seen, visit); err != nil && !ended(err) {
			return fmt.Errorf("reach the sockets of process %d: %w", pid, err)
		}
		return nil
	})
}

// Of hands every socket of one process to visit.
func Of(pid int, visit func(*Socket) error) error {
	if err := eachOf(pid, make(map[string]bool), visit); err != nil {
		return fmt.Errorf("reach the sockets of process %d: %w", pid, err)
	}
	return nil
}

// eachPID names the processes in the calling thread's network namespace.
func eachPID(visit func(pid int) error) error {
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if there, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/net")); err != nil || there != here {
			continue
		}
		if err := visit(pid); err != nil {
			return err
		}
	}
	return nil
}

// ended tells that a process is no more, or a descriptor of it.
func ended(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF) ||
		errors.Is(err, unix.ENOTSOCK) // another file has its number by now
}

func eachOf(pid int, seen map[string]bool, visit func(*Socket) error) error {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var owner *Process
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || len(link) < 7 || link[:7] != "socket:" || seen[link] {
			continue
		}
		seen[link] = true
		if owner == nil {
			if owner, err = openProcess(pid); err != nil {
				return err
			}
			defer owner.close()
		}
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		if err := owner.visit(number, visit); err != nil && !ended(err) {
			return err
		}
	}
	return nil
}

func (p *Process) visit(number int, visit func(*Socket) error) error {
	fd, err := unix.PidfdGetfd(p.pidfd, number, 0)
	if err != nil {
		return fmt.Errorf("copy descriptor %d: %w", number, err)
	}
	defer unix.Close(fd)
	s, err := inspect(fd)
	if s == nil || err != nil {
		return err
	}
	s.Owner = p
	return visit(s)
}

// inspect reads what a socket is; nil for one of another family.
func inspect(fd int) (*Socket, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_INET && domain != unix.AF_INET6 {
		return nil, err
	}
	s := &Socket{fd: fd}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return nil, err
	}
	s.TCP = protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, err
	}
	mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
	if err != nil {
		return nil, err
	}
	s.Listening, s.Mark = listening != 0, uint32(mark)
	if s.Listening && domain == unix.AF_INET6 {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return nil, err
		}
		s.OnlyIPv6 = only != 0
	}
	if local, err := unix.Getsockname(fd); err == nil {
		s.Local = addrPort(local)
	}
	if remote, err := unix.Getpeername(fd); err == nil {
		s.Remote = addrPort(remote)
	}
	return s, nil
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// Descriptor is a copy of its owner's, in this process, while it is visited.
func (s *Socket) Descriptor() int { return s.fd }

// SetMark gives it another mark.
func (s *Socket) SetMark(mark uint32) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("mark a socket: %w", err)
	}
	s.Mark = mark
	return nil
}

// SetTransparent lets it answer in the name of others (IP_TRANSPARENT), to whom packets for
// those are handed.
func (s *Socket) SetTransparent() error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if s.Local.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if err := unix.SetsockoptInt(s.fd, level, option, 1); err != nil {
		return fmt.Errorf("make a socket transparent: %w", err)
	}
	return nil
}

// Disconnect ends its connection with a reset to the other end, whoever has it open, on every
// kernel: Destroy needs no descriptor, but what not all have.
func (s *Socket) Disconnect() error {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
	if errno != 0 {
		return fmt.Errorf("end the connection %v > %v: %w", s.Local, s.Remote, errno)
	}
	return nil
}
