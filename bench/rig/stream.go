package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/testnet"
)

// stream is a TCP connection through a router. One thread has both its ends, and writes
// and reads in turns, so nothing waits for another process to run.
type stream struct {
	from, to int
	buffer   []byte
}

const (
	streamPort   = 5001
	streamBuffer = 256 << 10
)

// BulkRow is one TCP connection to an excluded destination that transfers so many bytes
// at a time.
func BulkRow(bytes int) Row {
	return Row{
		Row: report.Row{Name: "bulk", Title: "excluded destination, bulk TCP, one connection", Unit: report.GigabitsPerSecond,
			Higher: true, Base: Masquerade},
		Configs: everywhere,
		prepare: func(p *Path) (func() error, error) {
			at := netip.AddrPortFrom(server, streamPort)
			listener, err := listen(p.Far, at)
			if err != nil {
				return nil, err
			}
			if p.stream, err = openStream(p.Device, listener, at); err != nil {
				return nil, err
			}
			return p.stream.close, nil
		},
		measure: measureStream(bytes),
	}
}

// measureStream measures the transfer of so many bytes at a time.
func measureStream(bytes int) func(context.Context, *Driver, *Path) (float64, error) {
	return func(_ context.Context, d *Driver, p *Path) (float64, error) {
		took, err := d.time(p.Device, func() error { return p.stream.transfer(bytes) })
		return float64(8*bytes) / float64(took.Nanoseconds()), err
	}
}

// openStream connects to an address, where a listener takes it that is closed then.
func openStream(from *testnet.Node, listener int, at netip.AddrPort) (_ *stream, err error) {
	defer unix.Close(listener)
	s := &stream{from: -1, to: -1, buffer: make([]byte, streamBuffer)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open stream: %w", err), s.close())
		}
	}()
	if s.from, err = tcpSocket(from); err != nil {
		return nil, err
	}
	if err := unix.Connect(s.from, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return nil, err
	}
	if s.to, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
		return nil, err
	}
	return s, errors.Join(unix.SetNonblock(s.from, true), unix.SetNonblock(s.to, true))
}

func (s *stream) close() error {
	var errs []error
	for _, fd := range []int{s.from, s.to} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// transfer sends bytes and receives them.
func (s *stream) transfer(bytes int) error {
	for sent, received := 0, 0; received < bytes; {
		wrote, err := some(unix.Write(s.from, s.buffer[:min(len(s.buffer), bytes-sent)]))
		if err != nil {
			return fmt.Errorf("write to stream: %w", err)
		}
		read, err := some(unix.Read(s.to, s.buffer))
		if err != nil {
			return fmt.Errorf("read from stream: %w", err)
		}
		sent, received = sent+wrote, received+read
		if wrote == 0 && read == 0 {
			if err := s.wait(); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait waits until something has arrived. Not for room to write: that may be there for
// less than the kernel lets be written.
func (s *stream) wait() error {
	const patience = 5000 // milliseconds
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.to), Events: unix.POLLIN}}, patience)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for stream: %w", err)
	}
	if n == 0 && err == nil {
		return errors.New("nothing of the stream arrives")
	}
	return nil
}

// some is what was written or read, 0 if that was not possible now.
func some(n int, err error) (int, error) {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return n, err
}

// tcpSocket makes a socket in the namespace of a node.
func tcpSocket(n *testnet.Node) (fd int, err error) {
	err = n.Do(func() error {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	return fd, err
}

func listen(n *testnet.Node, at netip.AddrPort) (fd int, err error) {
	if fd, err = tcpSocket(n); err != nil {
		return -1, err
	}
	const backlog = 512
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}),
		unix.Listen(fd, backlog))
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen at %v of %s: %w", at, n.Name, err), unix.Close(fd))
	}
	return fd, nil
}

// neverSlow has the sender send as much as is taken. Where nothing but memory is between the ends, cubic
// believes by luck that a network is full, and goes on as if it were.
func (s *stream) neverSlow(from *testnet.Node) error {
	return errors.Join(from.Sysctl("net.ipv4.tcp_slow_start_after_idle=0"), unix.SetsockoptString(s.from, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno"))
}
