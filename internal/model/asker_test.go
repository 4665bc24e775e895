package model

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/torbpf/torbpf/internal/abi"
)

// askers are the entries of that map, which are emptied.
func (o *objects) askers(t *testing.T) []abi.DatapathAsker {
	t.Helper()
	memory, err := o.maps["askers"].Memory()
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, memory.Size())
	if _, err := memory.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	var none abi.DatapathAsker
	size := binary.Size(none)
	var out []abi.DatapathAsker
	for place := range abi.AskerSlots {
		a := decode[abi.DatapathAsker](t, raw[int(place)*size:][:size])
		if a == none {
			continue
		}
		if place != abi.AskerPlace(a.Key()) {
			t.Errorf("%+v is at place %d, not at %d", a, place, abi.AskerPlace(a.Key()))
		}
		out = append(out, a)
		o.put("askers", place, none)
	}
	return out
}

func excludesDomain(p *Policy) { p.Domains = []string{"bank.example", "*.shop.example"} }

// TestTheProgramTellsWhoAsks for an excluded name: by hardware address, whatever source
// the packet has, or by that where frames have none.
func TestTheProgramTellsWhoAsks(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	excludesDomain(p)
	o.set(p)
	question := changed(changed(dnsAsk("www.shop.example", dns.TypeA), 0, 0xab), 1, 0xcd)
	for _, row := range []struct {
		name, program string
		src, dst      string
		segment       segment
		id            uint16
	}{
		{"UDP", "torbpf_lan", laptop4, web4, udp(40000, 53, question...), 0xabcd},
		{"UDP, IPv6", "torbpf_lan", laptop6, web6, udp(40001, 53, question...), 0xabcd},
		{"UDP, from a link-local address", "torbpf_lan", "fe80::a", link6, udp(40001, 53, question...), 0xabcd},
		{"UDP, from what may be a forged address", "torbpf_lan", guest4, router4, udp(40000, 53, question...), 0xabcd},
		{"UDP without Ethernet", "torbpf_lan_l3", peer4, router4, udp(40000, 53, question...), 0xabcd},
		{"UDP without Ethernet, IPv6", "torbpf_lan_l3", peer6, router6, udp(40000, 53, question...), 0xabcd},
		{"TCP", "torbpf_lan", laptop4, router4, tcp(40000, 53, tcpSYN), 0},
		{"TCP, IPv6", "torbpf_lan", laptop6, web6, tcp(40000, 53, tcpSYN|0xc0), 0},
		{"TCP without Ethernet", "torbpf_lan_l3", peer4, web4, tcp(40000, 53, tcpSYN), 0},
	} {
		frame, want := ip(row.src, row.dst, row.segment), abi.DatapathDeviceKey{Addr: netip.MustParseAddr(row.src).As16()}
		if row.program == "torbpf_lan" {
			frame, want = ether(frame), abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: hostMAC}}
		}
		before := until(t, 0).UntilNs
		o.watch(t, row.program, frame, skBuff{Ifindex: lanIndex})
		got := o.askers(t)
		if len(got) != 1 {
			t.Errorf("%s: the program wrote %+v", row.name, got)
			continue
		}
		port := binary.BigEndian.Uint16(row.segment.bytes)
		key := abi.AskerKey{Addr: netip.AddrPortFrom(netip.MustParseAddr(row.src), port), ID: row.id, Protocol: row.segment.protocol}
		if got[0].Key() != key || got[0].Device != want || !got[0].Whole() {
			t.Errorf("%s: %+v about %v, whole is %t; want %v about %v", row.name, got[0], got[0].Key(), got[0].Whole(), want, key)
		}
		if got[0].TimeNs < before || got[0].TimeNs > until(t, 0).UntilNs {
			t.Errorf("%s: at %v", row.name, time.Duration(got[0].TimeNs))
		}
		got[0].Device.Mac.Addr[5]++
		if got[0].Whole() {
			t.Errorf("%s: whole with another device", row.name)
		}
	}
}

// TestNobodyElseIsTakenForAnAsker: no packet of another reason, and by TCP none while no
// name is excluded, nor one that goes on.
func TestNobodyElseIsTakenForAnAsker(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	syn, goesOn := ether(ip(laptop4, web4, tcp(40000, 53, tcpSYN))), ether(ip(laptop4, web4, tcp(40000, 53, tcpACK)))
	others := append(rows(),
		row{name: "TCP, and no name is excluded", frame: syn, reason: abi.ReasonDNSTCP},
		row{name: "TCP that goes on", frame: goesOn, reason: abi.ReasonDNSTCP, home: excludesDomain},
		row{name: "TCP that answers", frame: ether(ip(laptop4, web4, tcp(40000, 53, tcpSYN|tcpACK))), reason: abi.ReasonDNSTCP, home: excludesDomain},
		row{name: "a name above an excluded one", frame: ether(ip(laptop4, web4, udp(40000, 53, dnsAsk("shop.example", dns.TypeA)...))), reason: abi.ReasonDNSUDP, home: excludesDomain},
		row{name: "TCP to elsewhere", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonTCP, home: excludesDomain})
	for _, r := range others {
		p := home()
		if r.home != nil {
			r.home(p)
		}
		begins := Parse(r.frame, true, Metadata{Protocol: stackProtocol(r.frame)}).begins()
		if r.reason == abi.ReasonDNSDomain || r.reason == abi.ReasonDNSTCP && len(p.Domains) > 0 && begins {
			continue
		}
		o.set(p)
		o.watch(t, "torbpf_lan", r.frame, skBuff{Ifindex: lanIndex, Mark: r.mark})
		if got := o.askers(t); len(got) > 0 {
			t.Errorf("%s: the program wrote %+v", r.name, got)
		}
	}
}
