package model

import (
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
)

func timeServer(p *Policy) { p.TimeServer = true }

// with makes several changes to the home.
func with(changes ...func(*Policy)) func(*Policy) {
	return func(p *Policy) {
		for _, change := range changes {
			change(p)
		}
	}
}

// timeRows: where the router has the time, it is asked instead of whomever a device
// asks; also while Tor is not ready, since Tor does not start with a wrong clock.
func timeRows() []row {
	ask4, ask6 := ether(ip(laptop4, web4, udp(40000, 123))), ether(ip(laptop6, web6, udp(123, 123)))
	return []row{
		{name: "NTP where the router has the time", frame: ask4, reason: abi.ReasonNTPRouter, home: timeServer},
		{name: "NTP where the router has the time, IPv6", frame: ask6, reason: abi.ReasonNTPRouter, home: timeServer},
		{name: "NTP where the router has the time and Tor is not ready", frame: ask4, reason: abi.ReasonNTPRouter, home: with(timeServer, torDown)},
		{name: "NTP where the router has the time and marks may come late", frame: ask4, reason: abi.ReasonNTPRouter, home: with(timeServer, lateMarks)},
		{name: "NTP to the router", frame: ether(ip(laptop4, router4, udp(123, 123))), reason: abi.ReasonRouterAddress, home: timeServer},
		{name: "NTP of a blocked host", frame: ether(ip(blocked4, web4, udp(123, 123))), reason: abi.ReasonBlockedSource, answer: unreachable, home: timeServer},
		{name: "NTP in a fragment", frame: ether(ip(laptop4, web4, udp(123, 123), fragment4(0, true))), reason: abi.ReasonFragment, answer: unreachable, home: timeServer},
		{name: "the port of NTP by TCP", frame: ether(ip(laptop4, web4, tcp(40000, 123, tcpSYN))), reason: abi.ReasonTCP, home: timeServer},
		{name: "a time server in the LAN answers a visitor", frame: ether(ip(laptop4, web4, udp(123, 123))), reason: abi.ReasonInboundReply,
			home: with(timeServer, visited(protoUDP, laptop4+":123", web4+":123"))},
	}
}

// TestOwnDNSIsCountedApart: what the router itself asks by an uplink passes, and is
// counted under a reason of its own; what else it sends is not counted.
func TestOwnDNSIsCountedApart(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	for _, c := range []struct {
		packet []byte
		dns    bool
	}{
		{ip(wan4, web4, udp(40000, 53)), true},
		{ip("2600:9::1", web6, udp(40000, 53)), true},
		{ip(wan4, web4, tcp(40000, 53, tcpSYN)), true},
		{ip(wan4, web4, tcp(40000, 853, tcpSYN)), true},
		{ip(wan4, web4, udp(53, 40000)), false},
		{ip(wan4, web4, tcp(40000, 443, tcpSYN)), false},
	} {
		frame := ether(c.packet)
		out := o.watch(t, "torbpf_uplink", frame, skBuff{Ifindex: lanIndex})
		if out.action != actNext {
			t.Errorf("the program returns %#x", out.action)
		}
		counter := out.moved[counted{lanIndex, abi.VerdictNone, abi.ReasonOwnDNS}]
		if c.dns != (counter.Packets == 1 && counter.Bytes == uint64(len(frame))) || !c.dns && len(out.moved) != 0 {
			t.Errorf("%x: counted %v", c.packet[:24], out.moved)
		}
	}
}
