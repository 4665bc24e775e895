package leaktest

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// quoting is an IPv4 packet of UDP as an ICMP error repeats it.
func quoting(src, dst netip.AddrPort) []byte {
	b := make([]byte, 28)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	b[20], b[21] = byte(src.Port()>>8), byte(src.Port())
	b[22], b[23] = byte(dst.Port()>>8), byte(dst.Port())
	return b
}

// TestAnswersThatComeBackAreNoLeak of excluded flows, whatever the device sends is.
func TestAnswersThatComeBackAreNoLeak(t *testing.T) {
	server, device := excluded[0], netip.MustParseAddrPort("192.168.1.11:4711")
	router := netip.AddrPortFrom(testnet.WANRouter4, 4711)
	nobody := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
	w := &Watch{answered: []peer{{protocol: unix.IPPROTO_UDP, from: server, to: device}}}
	udp := func(src, dst netip.AddrPort) testnet.Packet { return testnet.Packet{Proto: "udp", Src: src, Dst: dst} }
	word := func(to netip.AddrPort, about []byte) testnet.Packet {
		return testnet.Packet{Proto: "icmp", ICMPType: 3, Src: nobody(router), Dst: nobody(to), Payload: about}
	}
	for name, c := range map[string]struct {
		packet testnet.Packet
		want   bool
	}{
		"an answer":                        {udp(server, device), true},
		"the device's":                     {udp(device, server), false},
		"the device's, masqueraded":        {udp(router, server), false},
		"of another port of the server":    {udp(netip.AddrPortFrom(server.Addr(), 9), device), false},
		"to another device":                {udp(server, netip.MustParseAddrPort("192.168.1.12:4711")), false},
		"a word about an answer":           {word(server, quoting(server, device)), true},
		"about one before masquerading":    {word(server, quoting(server, router)), true},
		"about the device's":               {word(server, quoting(device, server)), false},
		"about an answer to somebody else": {word(excluded[1], quoting(server, device)), false},
		"of TCP":                           {testnet.Packet{Proto: "tcp", Src: server, Dst: device}, false},
	} {
		if got := w.isReturned(c.packet); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
