package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
)

// TestTruncatedFramesAreNeverTakenForOthers cuts every frame of the table at
// every byte, once more behind a priority tag, where the kernel runs the program
// on IP headers that are cut short as well.
func TestTruncatedFramesAreNeverTakenForOthers(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	for _, r := range rows() {
		p := home()
		if r.home != nil {
			r.home(p)
		}
		o.set(p)
		tagged := slices.Concat(r.frame[:12], []byte{0x81, 0, 0, 0}, r.frame[12:])
		for _, frame := range [][]byte{r.frame, tagged} {
			_, whole := p.Judge(Parse(frame, true, Metadata{Protocol: stackProtocol(frame), Mark: r.mark}))
			for n := min(len(frame), 320); n >= 14; n-- {
				err := o.compare(p, "torbpf_lan", frame[:n], r.mark)
				if errors.Is(err, errShort) {
					if stackProtocol(frame) == etherVLAN {
						t.Errorf("%s: the kernel runs nothing on %d tagged bytes", r.name, n)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s, cut to %d bytes: %v", r.name, n, err)
				}
				_, reason := p.Judge(Parse(frame[:n], true, Metadata{Protocol: stackProtocol(frame), Mark: r.mark}))
				if reason != whole && reason != abi.ReasonMalformed && !lostQuestion(whole, reason) {
					t.Errorf("%s, cut to %d bytes, is taken for %s; whole it is %s", r.name, n, reason, whole)
				}
			}
		}
	}
}

// lostQuestion says that a query was cut before the end of its question: it is one
// like any other then.
func lostQuestion(whole, cut abi.Reason) bool {
	switch whole {
	case abi.ReasonDNSNoData, abi.ReasonDNSLocal, abi.ReasonDNSDomain:
		return cut == abi.ReasonDNSUDP || cut == abi.ReasonOnionDNS || cut == abi.ReasonTorNotReady
	}
	return false
}

// TestEveryProtocolHasItsReason sends each of the 256 protocols everywhere.
func TestEveryProtocolHasItsReason(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	o.set(p)
	for protocol := range 256 {
		body := raw(uint8(protocol), make([]byte, 64)...)
		wild4, wild6 := abi.ReasonProtocol, abi.ReasonProtocol
		switch protocol {
		case protoTCP:
			wild4, wild6 = abi.ReasonTCP, abi.ReasonTCP
		case protoUDP:
			wild4, wild6 = abi.ReasonUDP, abi.ReasonUDP
		case protoICMP:
			wild4 = abi.ReasonICMP
		case protoICMPv6:
			wild6 = abi.ReasonICMP
		}
		for _, c := range []struct {
			src, dst string
			want     abi.Reason
		}{
			{laptop4, web4, wild4}, {laptop6, web6, wild6},
			{laptop4, excluded4, abi.ReasonDirectDestination}, {laptop6, excluded6, abi.ReasonDirectDestination},
			{laptop4, router4, abi.ReasonRouterAddress}, {laptop6, router6, abi.ReasonRouterAddress},
			{laptop4, printer4, abi.ReasonLocalSubnet}, {laptop6, printer6, abi.ReasonLocalSubnet},
			{blocked4, web4, abi.ReasonBlockedSource}, {blocked6, web6, abi.ReasonBlockedSource},
		} {
			if isExtension(uint8(protocol)) && c.src != laptop4 && c.src != blocked4 {
				c.want = abi.ReasonMalformed // 64 zero bytes are eight headers
			}
			frame := ether(ip(c.src, c.dst, body))
			if err := o.compare(p, "torbpf_lan", frame, 0); err != nil {
				t.Errorf("protocol %d to %s: %v", protocol, c.dst, err)
			}
			if _, got := p.Judge(Parse(frame, true, Metadata{Protocol: stackProtocol(frame)})); got != c.want {
				t.Errorf("protocol %d to %s: %s, want %s", protocol, c.dst, got, c.want)
			}
		}
	}
}

// TestFramesWithoutEthernet runs the program of tunnels. The kernel reads an
// EtherType at byte 12 even there, which in IP is part of the source: 8.0.0.0/16
// reads as IPv4, the third group 86dd of an IPv6 address as IPv6.
func TestFramesWithoutEthernet(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	o.set(p)
	const reads4as6 = "134.221.0.10"
	for _, c := range []struct {
		name   string
		packet []byte
		want   abi.Reason
	}{
		{"TCP", ip(peer4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP},
		{"TCP, IPv6", ip(peer6, web6, tcp(40000, 443, tcpSYN)), abi.ReasonTCP},
		{"DNS", ip(peer4, excluded4, udp(40000, 53, dnsQuery()...)), abi.ReasonDNSUDP},
		{"DNS, IPv6", ip(peer6, router6, udp(40000, 53), ext(extHopByHop, 0)), abi.ReasonDNSUDP},
		{"excluded", ip(peer4, excluded4, udp(1, 2, dnsQuery()...)), abi.ReasonDirectDestination},
		{"IPv4 that the kernel takes for IPv6", ip(reads4as6, excluded4, udp(1, 2, make([]byte, 40)...)), abi.ReasonMalformed},
		{"not IP", etherRaw(0x0806, 0x45, 0, 0), abi.ReasonNonIP},
	} {
		if err := o.compare(p, "torbpf_lan_l3", c.packet, 0); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, got := p.Judge(Parse(c.packet, false, Metadata{Protocol: stackProtocol(c.packet)})); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestPortsAreReadFromTheirHeader gives every length of the IPv4 header and
// every place an IPv6 header may have a turn.
func TestPortsAreReadFromTheirHeader(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	o.set(p)
	check := func(name string, frame []byte) {
		t.Helper()
		if err := o.compare(p, "torbpf_lan", frame, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		k := Parse(frame, true, Metadata{Protocol: binary.BigEndian.Uint16(frame[12:])})
		if k.SrcPort != 40000 || k.DstPort != 53 {
			t.Errorf("%s: ports %d and %d, want 40000 and 53", name, k.SrcPort, k.DstPort)
		}
	}
	for words := range 11 {
		frame := ether(ip(laptop4, excluded4, udp(40000, 53), options(make([]byte, 4*words)...)))
		check(fmt.Sprintf("%d words of options", words), frame)
	}
	for units := range 256 {
		frame := ether(ip(laptop6, excluded6, udp(40000, 53), ext(extDestination, units)))
		check(fmt.Sprintf("options of %d units", units), frame)
	}
}
