package nft

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
)

// withHops has a socket send with so many, to hosts and to groups.
func withHops(n int) func(fd int) error {
	return func(fd int) error {
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if domain == unix.AF_INET {
			return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TTL, n), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MULTICAST_TTL, n))
		}
		return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, n), unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, n))
	}
}

// TestDiscoveryStaysOnTheLink, by where it goes and by its hops, in both modes of local subnets:
// a web server is asked for no neighbour.
func TestDiscoveryStaysOnTheLink(t *testing.T) {
	l := newClientLab(t)
	for _, mode := range []config.LocalMode{config.LocalConnected, config.LocalNone} {
		p := l.plan()
		p.LocalMode = mode
		p.Client.Direct = nil
		l.apply(p)
		link := "sent" // whatever it is
		if mode == config.LocalNone {
			link = refusedUDP
		}
		for _, test := range []struct {
			kind byte
			to   string
			hops int
			want string
		}{
			{133, "ff02::2", 255, "sent"}, {135, "ff02::2", 255, "sent"}, {143, "ff02::16", 1, "sent"}, {128, "ff02::2", 255, link},
			{135, "ff02::2", 64, link}, {143, "ff02::16", 2, link},
			{131, "ff05::9", 1, "sent"}, {131, "ff05::9", 2, refusedUDP}, {143, "ff0e::9", 255, refusedUDP}, {135, "ff0e::9", 255, refusedUDP},
			{135, "fe80::9", 255, "sent"}, {135, "fe80::9", 64, link},
			{135, outside6, 255, "sent"}, {136, outside6, 255, "sent"}, {135, outside6, 64, refusedUDP}, {133, outside6, 255, refusedUDP}, {143, outside6, 1, refusedUDP},
			{130, site6, 1, refusedUDP}, {131, site6, 255, refusedUDP}, {132, site6, 1, refusedUDP}, {133, site6, 255, refusedUDP}, {134, site6, 255, refusedUDP},
			{135, site6, 255, refusedUDP}, {136, site6, 255, refusedUDP}, {137, site6, 255, refusedUDP}, {143, site6, 1, refusedUDP},
		} {
			ready := withHops(test.hops)
			if a := netip.MustParseAddr(test.to); a.IsMulticast() || a.IsLinkLocalUnicast() {
				ready = both(ready, toDevice("wan0"))
			}
			if got := l.send(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, ready, []byte{test.kind, 0, 0, 0, 0, 0, 0, 0}, sockaddr(test.to, 0)); got != test.want {
				t.Errorf("local %q: type %d to %s with %d hops: %s, want %s", mode, test.kind, test.to, test.hops, got, test.want)
			}
		}
	}
}

// TestOnlyGroupsOfTheLinkAreLocal: who is in others may be anywhere.
func TestOnlyGroupsOfTheLinkAreLocal(t *testing.T) {
	l := newClientLab(t)
	l.apply(l.plan())
	for _, test := range []struct {
		to         string
		port, hops int
		want       string
	}{
		{"224.0.0.251", 5353, 255, "sent"}, {"224.0.1.1", 123, 2, refusedUDP}, {"224.0.1.1", 123, 1, "sent"},
		{"239.255.255.250", 1900, 4, "sent"}, {"239.255.255.250", 1900, 5, refusedUDP}, {"239.255.255.250", 9, 4, refusedUDP}, {"239.255.255.251", 1900, 4, refusedUDP},
		{"232.1.1.1", 9, 64, refusedUDP},
		{"ff02::fb", 5353, 255, "sent"}, {"ff12::9", 9, 64, "sent"}, {"ff05::c", 1900, 4, refusedUDP}, {"ff0e::9", 9, 64, refusedUDP}, {"ff0e::9", 9, 1, "sent"},
	} {
		domain := unix.AF_INET
		if netip.MustParseAddr(test.to).Is6() {
			domain = unix.AF_INET6
		}
		if got := l.send(domain, unix.SOCK_DGRAM, 0, both(toDevice("wan0"), withHops(test.hops)), []byte("?"), sockaddr(test.to, test.port)); got != test.want {
			t.Errorf("to %s port %d with %d hops: %s, want %s", test.to, test.port, test.hops, got, test.want)
		}
	}
}
