package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// oddSocket is a way to send that net.Dial does not take.
type oddSocket struct {
	name         string
	domain, kind int
	protocol     int
	to           netip.AddrPort
	user         int // whose it is
	ready        func(fd int) error
	sendsTo      bool // without connecting first
	messageFlags int
	exit         func(netip.Addr) bool // who is to come to the web server
	refused      error                 // or how it ends
}

func boundTo(name string) func(int) error {
	return func(fd int) error { return unix.BindToDevice(fd, name) }
}

func option(level, name int) func(int) error {
	return func(fd int) error { return unix.SetsockoptInt(fd, level, name, 1) }
}

// mapped is an IPv4 address as sockets of IPv6 write it.
func mapped(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

// TestOddSocketsOfTheMachine: by whichever kind of socket, TCP is Tor's and the rest is
// refused, and nothing else is seen outside.
func TestOddSocketsOfTheMachine(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, "--client")
	capture := captureWAN(t, lab)
	exit4 := func(a netip.Addr) bool { return a.Is4() && lab.Tor.IsExit(a) }
	exit6 := func(a netip.Addr) bool { return a.Is6() && lab.Tor.IsExit(a) }
	web4, web6 := at(testnet.Web4, testnet.PortHTTP), at(testnet.Web6, testnet.PortHTTP)
	mapped4 := at(mapped(testnet.Web4), testnet.PortHTTP)
	stream, datagram := unix.SOCK_STREAM, unix.SOCK_DGRAM
	for _, s := range []oddSocket{
		{name: "mapped IPv4", domain: unix.AF_INET6, kind: stream, to: mapped4, exit: exit4},
		{name: "MPTCP", domain: unix.AF_INET, kind: stream, protocol: unix.IPPROTO_MPTCP, to: web4, exit: exit4},
		{name: "MPTCP, IPv6", domain: unix.AF_INET6, kind: stream, protocol: unix.IPPROTO_MPTCP, to: web6, exit: exit6},
		{name: "TCP_FASTOPEN_CONNECT", domain: unix.AF_INET, kind: stream, to: web4, ready: option(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT), exit: exit4},
		{name: "TCP_FASTOPEN_CONNECT, IPv6", domain: unix.AF_INET6, kind: stream, to: web6, ready: option(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT), exit: exit6},
		{name: "MSG_FASTOPEN", domain: unix.AF_INET, kind: stream, to: web4, sendsTo: true, messageFlags: unix.MSG_FASTOPEN, exit: exit4},
		{name: "MSG_FASTOPEN, mapped", domain: unix.AF_INET6, kind: stream, to: mapped4, sendsTo: true, messageFlags: unix.MSG_FASTOPEN, exit: exit4},
		{name: "TCP bound to the uplink", domain: unix.AF_INET, kind: stream, to: web4, ready: boundTo(wan), exit: exit4},
		{name: "TCP bound to the uplink, IPv6", domain: unix.AF_INET6, kind: stream, to: web6, ready: boundTo(wan), exit: exit6},
		{name: "TCP of a user's, bound to the uplink", domain: unix.AF_INET, kind: stream, to: web4, user: someone, ready: boundTo(wan), refused: unix.EAGAIN},
		{name: "unconnected UDP", domain: unix.AF_INET, kind: datagram, to: web4, sendsTo: true, refused: unix.EPERM},
		{name: "unconnected UDP, IPv6", domain: unix.AF_INET6, kind: datagram, to: web6, sendsTo: true, refused: unix.EPERM},
		{name: "unconnected UDP, mapped", domain: unix.AF_INET6, kind: datagram, to: mapped4, sendsTo: true, refused: unix.EPERM},
		{name: "UDP bound to the uplink", domain: unix.AF_INET, kind: datagram, to: web4, ready: boundTo(wan), sendsTo: true, refused: unix.EPERM},
		{name: "UDP of a query, bound to the uplink", domain: unix.AF_INET, kind: datagram, to: at(testnet.PublicResolver4, testnet.PortDNS), ready: boundTo(wan), sendsTo: true, refused: unix.EPERM},
		{name: "UDP-Lite", domain: unix.AF_INET, kind: datagram, protocol: unix.IPPROTO_UDPLITE, to: web4, sendsTo: true, refused: unix.EPERM},
		{name: "raw GRE", domain: unix.AF_INET, kind: unix.SOCK_RAW, protocol: unix.IPPROTO_GRE, to: at(testnet.Web4, 0), sendsTo: true, refused: unix.EPERM},
		{name: "raw SCTP, IPv6", domain: unix.AF_INET6, kind: unix.SOCK_RAW, protocol: unix.IPPROTO_SCTP, to: at(testnet.Web6, 0), sendsTo: true, refused: unix.EPERM},
	} {
		t.Run(s.name, func(t *testing.T) {
			source, err := s.fetch(lab.Router.As(s.user))
			switch {
			case s.exit == nil && !errors.Is(err, s.refused):
				t.Errorf("the server saw %v, %v; want %v", source, err, s.refused)
			case s.exit != nil && (err != nil || !s.exit(source)):
				t.Errorf("the server saw %v, %v; want an exit", source, err)
			}
		})
	}
	checkNoLeaks(t, capture)
}

// fetch asks a web server for its page, in plain words: who came.
func (s oddSocket) fetch(n *testnet.Node) (netip.Addr, error) {
	const request = "GET / HTTP/1.1\r\nHost: odd\r\nConnection: close\r\n\r\n"
	fd := -1
	defer func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	}()
	err := n.Do(func() error {
		var err error
		if fd, err = unix.Socket(s.domain, s.kind|unix.SOCK_CLOEXEC, s.protocol); err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		wait := unix.NsecToTimeval(int64(torPatience))
		if errors.Is(s.refused, unix.EAGAIN) { // nobody says so
			wait = unix.NsecToTimeval(int64(hush))
		}
		if s.ready != nil {
			if err := s.ready(fd); err != nil {
				return fmt.Errorf("ready socket: %w", err)
			}
		}
		err = errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
		if err != nil {
			return err
		}
		if s.sendsTo {
			return unix.Sendto(fd, []byte(request), s.messageFlags, s.sockaddr())
		}
		if err := unix.Connect(fd, s.sockaddr()); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		_, err = unix.Write(fd, []byte(request))
		return err
	})
	if errors.Is(err, unix.EINPROGRESS) {
		err = unix.EAGAIN // how connect says that its time is over
	}
	if err != nil || s.kind != unix.SOCK_STREAM {
		return netip.Addr{}, err
	}
	return sourceSeen(fd)
}

func (s oddSocket) sockaddr() unix.Sockaddr {
	if s.domain == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: s.to.Addr().As4(), Port: int(s.to.Port())}
	}
	port := int(s.to.Port())
	if s.kind == unix.SOCK_RAW {
		port = 0
	}
	return &unix.SockaddrInet6{Addr: s.to.Addr().As16(), Port: port}
}

// sourceSeen reads what a web server of the lab answers.
func sourceSeen(fd int) (netip.Addr, error) {
	var text strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return netip.Addr{}, err
		}
		if n == 0 {
			break
		}
		text.Write(buf[:n])
	}
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text.String())), nil)
	if err != nil {
		return netip.Addr{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(strings.TrimSpace(string(body)))
}

// TestKernelSocketsOfTheMachineAreJudged: a tunnel of the kernel's sends datagrams by a
// socket that no process has made.
func TestKernelSocketsOfTheMachineAreJudged(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	tunnel := []string{"link", "add", "vx0", "type", "vxlan", "id", "7", "remote", testnet.Web4.String(), "dstport", "4789", "dev", wan}
	run(t, lab.Router, "ip", tunnel...)
	run(t, lab.Router, "ip", "addr", "add", "10.99.0.1/24", "dev", "vx0")
	run(t, lab.Router, "ip", "link", "set", "vx0", "up")
	use := func(network string) {
		conn, err := lab.Router.Dial(t.Context(), network, "10.99.0.2:7")
		if err != nil {
			return // of TCP: nobody is there
		}
		_, _ = conn.Write([]byte("into the tunnel")) // refused, as it should be
		conn.Close()
	}
	run(t, lab.Router, "ip", "neigh", "add", "10.99.0.2", "lladdr", "02:00:00:00:99:02", "dev", "vx0", "nud", "permanent")
	before := captureWAN(t, lab)
	use("udp")
	seen := func(c *testnet.Capture) int {
		n := 0
		for _, p := range c.Packets() {
			if p.Inbound && p.Dst == at(testnet.Web4, 4789) {
				n++
			}
		}
		return n
	}
	eventually(t, patience, "the tunnel's packets before attach", func() error {
		if seen(before) == 0 {
			return errors.New("there are none")
		}
		return nil
	})
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	capture := captureWAN(t, lab)
	use("udp")
	ping := lab.Router.Command(t.Context(), "ping", "-c", "1", "-W", "1", "10.99.0.2")
	_ = ping.Run() // it gets no answer
	conn, err := lab.Router.Dial(t.Context(), "udp", "10.99.0.77:7")
	if err == nil { // its neighbour is asked for, in a tunnel as well
		_, _ = conn.Write([]byte("x"))
		conn.Close()
	}
	checkNoLeaks(t, capture)
	// Its endpoint is let out as any other destination is.
	mustTorbpf(t, lab, "exclude", "add", "--client", "--port", "4789/udp@"+testnet.Web4.String())
	again := captureWAN(t, lab)
	use("udp")
	eventually(t, patience, "the tunnel's packets while its port is excluded", func() error {
		if seen(again) == 0 {
			return errors.New("there are none")
		}
		return nil
	})
}
