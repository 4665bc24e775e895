package model

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// otherIndex is an interface that is no LAN; it need not exist.
const otherIndex = 77

// uplinkRow is a packet about to leave by an uplink.
type uplinkRow struct {
	name    string
	ingress uint32 // 0: sent by the router
	mark    uint32
	leak    bool
}

func uplinkRows() []uplinkRow {
	class := func(v abi.Verdict) uint32 { return uint32(v) << 24 }
	return []uplinkRow{
		{name: "uplink: of the router", ingress: 0, mark: class(abi.VerdictNone)},
		{name: "uplink: of another interface", ingress: otherIndex, mark: class(abi.VerdictNone)},
		{name: "uplink: of another interface, a forged class", ingress: otherIndex, mark: class(abi.VerdictTor)},
		{name: "uplink: direct", ingress: lanIndex, mark: class(abi.VerdictDirect)},
		{name: "uplink: direct, of the last instance", ingress: lanIndex, mark: class(abi.VerdictDirect) | 0xf0000000},
		{name: "uplink: reply to a visitor", ingress: lanIndex, mark: class(abi.VerdictInbound)},
		{name: "uplink: exempt mark", ingress: lanIndex, mark: exemptMark},
		{name: "uplink: exempt mark among others", ingress: lanIndex, mark: exemptMark | 0x35},
		{name: "uplink: not classified", ingress: lanIndex, mark: class(abi.VerdictNone), leak: true},
		{name: "uplink: a mark that is not exempt", ingress: lanIndex, mark: 0x35, leak: true},
		{name: "uplink: local", ingress: lanIndex, mark: class(abi.VerdictLocal), leak: true},
		{name: "uplink: local with an exempt mark", ingress: lanIndex, mark: class(abi.VerdictLocal) | exemptMark, leak: true},
		{name: "uplink: tor", ingress: lanIndex, mark: class(abi.VerdictTor), leak: true},
		{name: "uplink: tor with an exempt mark", ingress: lanIndex, mark: class(abi.VerdictTor) | exemptMark, leak: true},
		{name: "uplink: onion", ingress: lanIndex, mark: class(abi.VerdictOnion), leak: true},
		{name: "uplink: dns", ingress: lanIndex, mark: class(abi.VerdictDNS), leak: true},
		{name: "uplink: resolver", ingress: lanIndex, mark: class(abi.VerdictResolver), leak: true},
		{name: "uplink: refused", ingress: lanIndex, mark: class(abi.VerdictRefused), leak: true},
		{name: "uplink: pending", ingress: lanIndex, mark: class(abi.VerdictPending), leak: true},
		{name: "uplink: a class that does not exist", ingress: lanIndex, mark: 4 << 24, leak: true},
		{name: "uplink: another that does not exist", ingress: lanIndex, mark: 15 << 24, leak: true},
	}
}

func (o *objects) checkUplink(t *testing.T, r uplinkRow) {
	o.set(home())
	for _, packet := range [][]byte{
		ip(wan4, web4, tcp(40000, 443, tcpSYN)),
		ip("2600:9::1", web6, udp(40000, 443)),
		ip(wan4, web4, raw(protoUDP, 1, 2, 3), fragment4(9, false)),
	} {
		frame := ether(packet)
		out := o.watch(t, "torbpf_uplink", frame, skBuff{Ifindex: lanIndex, IngressIfindex: r.ingress, Mark: r.mark})
		want := uint32(actNext)
		if r.leak {
			want = actShot
		}
		if out.action != want || out.mark != r.mark {
			t.Errorf("the program returns %#x with mark %#08x, want %#x with %#08x", out.action, out.mark, want, r.mark)
		}
		c := out.moved[counted{lanIndex, abi.VerdictRefused, abi.ReasonUplinkGuard}]
		if r.leak && (len(out.moved) != 1 || c.Packets != 1 || c.Bytes != uint64(len(frame))) {
			t.Errorf("counted %v, want one packet as %s", out.moved, abi.ReasonUplinkGuard)
		}
		if !r.leak && len(out.moved) != 0 {
			t.Errorf("counted %v of a packet that passes", out.moved)
		}
	}
}

func TestStaleExemptMarksOpenNothing(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	p := home()
	p.Exempt = nil // the entry stays in the array: the settings say how many are in use
	o.set(p)
	frame := ether(ip(wan4, web4, tcp(40000, 443, tcpSYN)))
	out := o.watch(t, "torbpf_uplink", frame, skBuff{Ifindex: lanIndex, IngressIfindex: lanIndex, Mark: exemptMark})
	if out.action != actShot {
		t.Errorf("the uplink returns %#x on a mark that is no longer exempt, want %#x", out.action, actShot)
	}
	frame = ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN)))
	out = o.watch(t, "torbpf_lan", frame, skBuff{Ifindex: lanIndex, Mark: exemptMark})
	if out.mark>>24 != uint32(abi.VerdictTor) {
		t.Errorf("the mark on a LAN is %#08x, want class %s", out.mark, abi.VerdictTor)
	}
}

func TestRefusalsAreReported(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	reader, err := ringbuf.NewReader(o.maps["refusals"])
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()

	for _, c := range []struct {
		program string
		packet  []byte
		in      skBuff
		want    abi.DatapathRefusal
	}{
		{"torbpf_lan", ip(laptop4, web4, udp(40000, 443)), skBuff{Ifindex: lanIndex}, abi.DatapathRefusal{
			Reason: abi.ReasonQUIC, Saddr: as16(laptop4), Daddr: as16(web4),
			SportBe: bePort(40000), DportBe: bePort(443), Protocol: protoUDP}},
		{"torbpf_lan", ip(laptop6, web6, icmp(protoICMPv6, 128, 7)), skBuff{Ifindex: lanIndex}, abi.DatapathRefusal{
			Reason: abi.ReasonICMP, Saddr: as16(laptop6), Daddr: as16(web6),
			SportBe: bePort(7), DportBe: bePort(7), Protocol: protoICMPv6}},
		{"torbpf_lan", ip(laptop4, web4, raw(protoGRE, make([]byte, 20)...)), skBuff{Ifindex: lanIndex}, abi.DatapathRefusal{
			Reason: abi.ReasonProtocol, Saddr: as16(laptop4), Daddr: as16(web4), Protocol: protoGRE}},
		{"torbpf_uplink", ip(wan4, web4, tcp(40000, 443, tcpSYN)), skBuff{Ifindex: lanIndex, IngressIfindex: lanIndex}, abi.DatapathRefusal{
			Reason: abi.ReasonUplinkGuard, Saddr: as16(wan4), Daddr: as16(web4),
			SportBe: bePort(40000), DportBe: bePort(443), Protocol: protoTCP}},
		{"torbpf_uplink", ip(laptop6, web6, udp(40000, 443)), skBuff{Ifindex: lanIndex, IngressIfindex: lanIndex}, abi.DatapathRefusal{
			Reason: abi.ReasonUplinkGuard, Saddr: as16(laptop6), Daddr: as16(web6),
			SportBe: bePort(40000), DportBe: bePort(443), Protocol: protoUDP}},
	} {
		frame := ether(c.packet)
		o.watch(t, c.program, frame, c.in)
		c.want.Ifindex, c.want.Verdict, c.want.Length = lanIndex, abi.VerdictRefused, uint32(len(frame))
		got := nextRefusal(t, reader)
		if got.TimeNs == 0 {
			t.Error("a report has no time")
		}
		got.TimeNs = 0
		if got != c.want {
			t.Errorf("reported\n%+v, want\n%+v", got, c.want)
		}
	}
	o.watch(t, "torbpf_lan", ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN))), skBuff{Ifindex: lanIndex})
	reader.SetDeadline(time.Now())
	if _, err := reader.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a packet that passed was reported: %v", err)
	}
}

func nextRefusal(t *testing.T, reader *ringbuf.Reader) abi.DatapathRefusal {
	t.Helper()
	reader.SetDeadline(time.Now().Add(5 * time.Second))
	record, err := reader.Read()
	if err != nil {
		t.Fatalf("read a report: %v", err)
	}
	return decode[abi.DatapathRefusal](t, record.RawSample)
}

func as16(s string) [16]uint8 { return netip.MustParseAddr(s).As16() }

func TestVisitorsAreLearnedTowardsTheLAN(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	p := home()
	p.Inbound = true
	o.set(p)
	inbound := uint32(abi.VerdictInbound) << 24
	for _, c := range []struct {
		name      string
		to, reply []byte
	}{
		{"UDP", ip(web4, laptop4, udp(40000, 27015)), ip(laptop4, web4, udp(27015, 40000))},
		{"UDP, IPv6", ip(web6, laptop6, udp(40000, 27015)), ip(laptop6, web6, udp(27015, 40000))},
		{"ping", ip(web4, laptop4, icmp(protoICMP, 8, 5)), ip(laptop4, web4, icmp(protoICMP, 0, 5))},
		{"GRE", ip(web4, laptop4, raw(protoGRE, 1, 2)), ip(laptop4, web4, raw(protoGRE, 3, 4))},
	} {
		reply := Parse(ether(c.reply), true, Metadata{Protocol: stackProtocol(ether(c.reply))})
		for _, mark := range []uint32{0, uint32(abi.VerdictDirect) << 24, uint32(abi.VerdictLocal) << 24} {
			o.watch(t, "torbpf_lan_out", ether(c.to), skBuff{Ifindex: lanIndex, IngressIfindex: otherIndex, Mark: mark})
			if out := o.watch(t, "torbpf_lan", ether(c.reply), skBuff{Ifindex: lanIndex}); out.action == actNext {
				t.Errorf("%s: a packet towards the LAN with mark %#08x lets its reply pass", c.name, mark)
			}
		}
		o.watch(t, "torbpf_lan_out", ether(c.to), skBuff{Ifindex: lanIndex, Mark: inbound})
		if out := o.watch(t, "torbpf_lan", ether(c.reply), skBuff{Ifindex: lanIndex}); out.action == actNext {
			t.Errorf("%s: a packet of the router's own to the LAN lets its reply pass", c.name)
		}
		out := o.watch(t, "torbpf_lan_out", ether(c.to), skBuff{Ifindex: lanIndex, IngressIfindex: otherIndex, Mark: inbound})
		if out.action != actNext || out.mark != inbound || len(out.moved) != 0 {
			t.Errorf("%s: torbpf_lan_out returns %#x with mark %#08x and counts %v", c.name, out.action, out.mark, out.moved)
		}
		flow := InboundFlow{reply.Protocol, netip.AddrPortFrom(reply.Src, reply.SrcPort), netip.AddrPortFrom(reply.Dst, reply.DstPort)}
		var seen abi.DatapathInboundSeen
		if err := o.maps["inbound_flows"].Lookup(inboundKey(flow), &seen); err != nil || seen.TimeNs == 0 {
			t.Errorf("%s: learned nothing of %v: %v", c.name, flow, err)
		}
		out = o.watch(t, "torbpf_lan", ether(c.reply), skBuff{Ifindex: lanIndex})
		if _, ok := out.moved[counted{lanIndex, abi.VerdictPending, abi.ReasonInboundReply}]; !ok {
			t.Errorf("%s: its reply counts as %v", c.name, out.moved)
		}
	}
	o.set(p)
	o.watch(t, "torbpf_lan_out", etherRaw(0x0806, make([]byte, 28)...), skBuff{Ifindex: lanIndex, IngressIfindex: otherIndex, Mark: inbound})
	var key abi.DatapathFlow
	if err := o.maps["inbound_flows"].NextKey(nil, &key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("learned %+v of a frame that is not IP: %v", key, err)
	}
}

// The socket of a test run has port 0, so that one stands for Tor's here.
func TestUplinkStopsWhatMayBeAnAnswerOfTors(t *testing.T) {
	enterNamespace(t)
	for _, c := range []struct {
		name         string
		ports        plan.Ports
		answer, free segment
	}{
		{"TransPort", plan.Ports{DNS: 9053, Resolver: 9054}, tcp(443, 40000, tcpSYN|tcpACK), udp(443, 40000)},
		{"DNSPort", plan.Ports{Trans: 9040, Resolver: 9054}, udp(53, 40000), tcp(53, 40000, tcpACK)},
	} {
		o := loadPorts(t, 24, c.ports)
		o.set(home())
		for _, row := range []struct {
			name  string
			frame []byte
			leak  bool
		}{
			{"its protocol", ether(ip(web4, "50.0.0.2", c.answer)), true},
			{"its protocol, IPv6", ether(ip(web6, "2600:9::7", c.answer)), true},
			{"its protocol in a fragment, IPv6", ether(ip(web6, "2600:9::7", c.answer, fragment6(0, true))), true},
			{"its protocol behind an extension header", ether(ip(web6, "2600:9::7", c.answer, ext(extHopByHop, 0))), true},
			{"nothing that can be read", etherRaw(0x8847, make([]byte, 60)...), true},
			{"the other protocol", ether(ip(web4, "50.0.0.2", c.free)), false},
			{"the other protocol, IPv6", ether(ip(web6, "2600:9::7", c.free)), false},
		} {
			out := o.watch(t, "torbpf_uplink", row.frame, skBuff{Ifindex: lanIndex})
			if leak := out.action == actShot; leak != row.leak {
				t.Errorf("%s, %s: stopped is %t, want %t", c.name, row.name, leak, row.leak)
			}
			if n := out.moved[counted{lanIndex, abi.VerdictRefused, abi.ReasonUplinkGuard}].Packets; (n == 1) != row.leak {
				t.Errorf("%s, %s: counted %d packets", c.name, row.name, n)
			}
		}
	}
}
