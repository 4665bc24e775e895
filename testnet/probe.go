package testnet

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// HTTPGet fetches a page from inside n, on a connection of its own, and returns the
// body without surrounding space: for the lab's web servers, the address they saw.
// Names are looked up as a device would, at n.Resolver. HTTPS trusts the lab's
// servers only.
func HTTPGet(n *Node, target string, timeout time.Duration) (string, error) {
	return httpGet(n, target, timeout, nil)
}

// HTTPGetSOCKS does the same through a SOCKS5 proxy that n reaches at the literal
// address proxy; names are left to the proxy. Credentials may be given as
// "user:password@address:port": tor uses a circuit of its own for each.
func HTTPGetSOCKS(n *Node, proxy, target string, timeout time.Duration) (string, error) {
	proxyURL, err := url.Parse("socks5://" + proxy)
	if err != nil {
		return "", fmt.Errorf("parse proxy: %w", err)
	}
	return httpGet(n, target, timeout, http.ProxyURL(proxyURL))
}

// HTTPGetProxy does the same through an HTTP proxy that n reaches at "address:port", HTTPS by
// CONNECT.
func HTTPGetProxy(n *Node, proxy, target string, timeout time.Duration) (string, error) {
	return httpGet(n, target, timeout, http.ProxyURL(&url.URL{Scheme: "http", Host: proxy}))
}

func httpGet(n *Node, target string, timeout time.Duration, proxy func(*http.Request) (*url.URL, error)) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	transport := &http.Transport{
		Proxy:             proxy,
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: n.lab.roots},
		DialContext:       n.dialName,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", fmt.Errorf("build request: %w", err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", fmt.Errorf("get %s from %s: %w", target, n.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("read %s from %s: %w", target, n.Name, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s from %s: %s: %s", target, n.Name, response.Status, body)
	}
	return strings.TrimSpace(string(body)), nil
}

// dialName dials a host name or a literal address.
func (n *Node) dialName(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", n.Name, err)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		ip, err := n.lookup(ctx, host)
		if err != nil {
			return nil, err
		}
		host = ip.String()
	}
	return n.Dial(ctx, network, net.JoinHostPort(host, port))
}

// lookup prefers IPv4: tests that mean IPv6 say so.
func (n *Node) lookup(ctx context.Context, host string) (netip.Addr, error) {
	if !n.Resolver.IsValid() {
		return netip.Addr{}, fmt.Errorf("look %s up from %s: node has no resolver", host, n.Name)
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		query := new(dns.Msg).SetQuestion(dns.Fqdn(host), qtype)
		reply, err := exchange(ctx, n, n.Resolver, "udp", query)
		if err != nil {
			return netip.Addr{}, err
		}
		for _, rr := range reply.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				return netip.AddrFrom4([4]byte(rr.A.To4())), nil
			case *dns.AAAA:
				return netip.AddrFrom16([16]byte(rr.AAAA)), nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("look %s up from %s: no address", host, n.Name)
}

// DNSQuery asks server (usually n.Resolver) for name from inside n. The type is a
// name such as "AAAA", proto is "udp" or "tcp". Any answer is returned, whatever
// its code; an error means there was none. There are no retries.
func DNSQuery(n *Node, server netip.AddrPort, name, qtype, proto string, timeout time.Duration) (*dns.Msg, error) {
	number, ok := dns.StringToType[qtype]
	if !ok {
		return nil, fmt.Errorf("query %s: unknown type %q", name, qtype)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return exchange(ctx, n, server, proto, new(dns.Msg).SetQuestion(dns.Fqdn(name), number))
}

// Echo sends a message to an echo server and waits for it to come back.
func Echo(n *Node, proto string, server netip.AddrPort, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := n.Dial(ctx, proto, server.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	message := []byte("echo from " + n.Name)
	if _, err := conn.Write(message); err != nil {
		return fmt.Errorf("send to %s from %s: %w", server, n.Name, err)
	}
	reply := make([]byte, len(message))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return fmt.Errorf("receive from %s on %s: %w", server, n.Name, err)
	}
	if string(reply) != string(message) {
		return fmt.Errorf("echo of %s on %s: got %q", server, n.Name, reply)
	}
	return nil
}

// SendFrame puts an Ethernet frame on the wire as it is, bypassing the node's own
// routing and firewall. See Frame and TagVLAN.
func (n *Node) SendFrame(ifname string, frame []byte) error {
	return n.SendFrames(ifname, [][]byte{frame})
}

// SendFrames sends several, one after the other.
func (n *Node) SendFrames(ifname string, frames [][]byte) error {
	return n.sendFrames(ifname, 0, frames)
}

// SendFrameAs sends one that the kernel takes for something else than its header says: the
// EtherType is the sender's word (sll_protocol of packet(7)).
func (n *Node) SendFrameAs(ifname string, etherType uint16, frame []byte) error {
	return n.sendFrames(ifname, etherType, [][]byte{frame})
}

// sendFrames leaves it to the kernel to read the EtherType where none is said.
func (n *Node) sendFrames(ifname string, etherType uint16, frames [][]byte) error {
	link, err := n.nl.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("send frame on %s of %s: %w", ifname, n.Name, err)
	}
	fd, err := n.packetSocket()
	for i := 0; err == nil && i < len(frames); i++ {
		err = unix.Sendto(fd, frames[i], 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: htons(etherType)})
	}
	if err != nil {
		return fmt.Errorf("send frame on %s of %s: %w", ifname, n.Name, err)
	}
	return nil
}

// packetSocket is one for all frames of a node: to close one takes the kernel
// some 10 ms.
func (n *Node) packetSocket() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.packets != nil {
		return int(n.packets.Fd()), nil
	}
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		n.packets = os.NewFile(uintptr(fd), "packet socket of "+n.Name)
		return nil
	})
	if err != nil {
		return -1, err
	}
	return int(n.packets.Fd()), nil
}

// SendRaw sends an IP packet as it is from a client to its router, whatever source
// address it bears. See IPPacket, UDPDatagram, TCPSegment, ICMPEcho and Fragments.
func SendRaw(n *Node, packet []byte) error {
	return n.SendFrame("eth0", ToGateway(n, packet))
}

// ToGateway is the frame in which a client sends an IP packet to its router.
func ToGateway(n *Node, packet []byte) []byte {
	etherType := uint16(unix.ETH_P_IP)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		etherType = unix.ETH_P_IPV6
	}
	return Frame(n.GatewayMAC, n.MAC, etherType, packet)
}
