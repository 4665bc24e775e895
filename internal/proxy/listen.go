package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// listener takes connections from this machine only, and no more of them than there are
// slots: others wait.
type listener struct {
	*net.TCPListener
	conns *conns
	slots chan struct{} // shared by all listeners
	ended chan struct{}
	end   sync.Once
}

// listen opens the proxy's port on loopback, where that exists.
func listen(ctx context.Context, port uint16, lim limits, conns *conns) (out []*listener, err error) {
	slots := make(chan struct{}, lim.clients)
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // loopback is one path
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		l, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(addr, port).String())
		if addr.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue // a machine without IPv6
		}
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, fmt.Errorf("listen on the proxy's port (choose another if it is taken): %w", err)
		}
		out = append(out, &listener{TCPListener: l.(*net.TCPListener), conns: conns, slots: slots, ended: make(chan struct{})})
	}
	return out, nil
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		// A rule of somebody's may lead from outside to a loopback address.
		if from := tcp.RemoteAddr().(*net.TCPAddr); !from.IP.IsLoopback() {
			tcp.Close()
			continue
		}
		select {
		case l.slots <- struct{}{}:
			return l.conns.add(tcp, func() { <-l.slots }), nil
		case <-l.ended:
			tcp.Close()
			return nil, net.ErrClosed
		}
	}
}

func (l *listener) Close() error {
	l.end.Do(func() { close(l.ended) })
	return l.TCPListener.Close()
}
