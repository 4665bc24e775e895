package model

import (
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
)

// forged is a class that a packet may not keep: "direct", of Tor instance 15.
const forged = 0xf1000000

// fleeting is what the high nibble says of what a name lets out (WAY_FLEETING of bpf/plan.h).
const fleeting = 0x10000000

func TestEveryVerdictAndReason(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	verdicts, reasons := make(map[abi.Verdict]bool), make(map[abi.Reason]bool)
	for _, r := range rows() {
		verdicts[r.reason.Verdict()], reasons[r.reason] = true, true
		t.Run(r.name, func(t *testing.T) { o.checkRow(t, r) })
	}
	for _, r := range uplinkRows() {
		verdicts[abi.Verdict(r.mark>>24&0xf)] = true
		if r.leak {
			reasons[abi.ReasonUplinkGuard] = true
		}
		t.Run(r.name, func(t *testing.T) { o.checkUplink(t, r) })
	}
	for _, r := range ownRows() {
		reasons[r.reason()] = true
		t.Run(r.name, func(t *testing.T) { o.checkOwn(t, r) })
	}
	for v := abi.Verdict(0); v < 16; v++ {
		if unnamed := strings.HasPrefix(v.String(), "verdict-"); !unnamed && !verdicts[v] {
			t.Errorf("no row has the verdict %s", v)
		}
	}
	reasons[abi.ReasonOwnDNS] = true          // of the uplink: table_time_test.go
	reasons[abi.ReasonDirectInterface] = true // exit_test.go
	reasons[abi.ReasonCutPeer] = true         // of uplink and torbpf_lan_out: lasting_test.go
	reasons[abi.ReasonClientEnded] = true     // of real sockets: loader/sockets_test.go
	reasons[abi.ReasonOnionMoved] = true      // of several tors: instance_test.go
	reasons[abi.ReasonDNSGuard] = true        // of torbpf_dns: delivery_test.go
	reasons[abi.ReasonDeliveryGuard] = true   // of bpf/guards.bpf.c: the kernel test-runs none of its kind
	reasons[abi.ReasonForwardGuard] = true    // the same: loader/forward_test.go
	reasons[abi.ReasonNoConnection] = true    // of real sockets: loader/handover_test.go
	reasons[abi.ReasonStranger] = true        // likewise
	for r := abi.ReasonNone + 1; r < abi.ReasonMax; r++ {
		if !reasons[r] {
			t.Errorf("no row has the reason %s", r)
		}
	}
}

// checkRow runs the program and the model on a row.
func (o *objects) checkRow(t *testing.T, r row) {
	p := home()
	if r.home != nil {
		r.home(p)
	}
	o.set(p)
	o.forget()
	verdict := r.reason.Verdict()
	k := Parse(r.frame, true, Metadata{Protocol: stackProtocol(r.frame), Mark: r.mark | forged})
	if v, reason := p.Judge(k); v != verdict || reason != r.reason {
		t.Errorf("the model says %s, %s; want %s, %s", v, reason, verdict, r.reason)
	}

	out := o.watch(t, "torbpf_lan", r.frame, skBuff{Ifindex: lanIndex, Mark: r.mark | forged})
	want := counted{lanIndex, verdict, r.reason}
	if c := out.moved[want]; len(out.moved) != 1 || c.Packets != 1 || c.Bytes != uint64(len(r.frame)) {
		t.Errorf("counted %v, want one packet of %d bytes as %s, %s", out.moved, len(r.frame), verdict, r.reason)
	}
	action, mark := uint32(actNext), r.mark|uint32(verdict)<<24
	switch {
	case r.reason == abi.ReasonDirectDomain:
		mark |= fleeting
	case r.reason == abi.ReasonExemptMark:
		mark = r.mark // the user's ip rules may compare the whole mark
	case verdict == abi.VerdictRefused && r.answer == silence:
		action, mark = actShot, r.mark|forged
	case verdict == abi.VerdictRefused:
		action, mark = actRedirect, 0
	}
	if out.action != action {
		t.Errorf("the program returns %#x, want %#x", out.action, action)
	}
	if out.mark != mark {
		t.Errorf("the mark is %#08x, want %#08x", out.mark, mark)
	}
	switch action {
	case actNext:
		if !slices.Equal(out.frame, r.frame) {
			t.Errorf("a packet that passes was changed to\n% x", out.frame)
		}
	case actRedirect:
		if !slices.Equal(out.frame[:12], slices.Concat(r.frame[6:12], r.frame[:6])) {
			t.Errorf("the answer has the stations % x, want those of % x exchanged", out.frame[:12], r.frame[:12])
		}
		checkAnswer(t, r.answer, r.frame[14:], out.frame[14:])
	}
}

func TestSegmentsOfAnAggregateAreCounted(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	frame := ether(ip(laptop4, web4, tcp(40000, 443, tcpACK, make([]byte, 3000)...)))
	out := o.watch(t, "torbpf_lan", frame, skBuff{Ifindex: lanIndex, GSOSegs: 3, GSOSize: 1000})
	if c := out.moved[counted{lanIndex, abi.VerdictTor, abi.ReasonTCP}]; c.Packets != 3 {
		t.Errorf("counted %v, want three packets", out.moved)
	}
}

func TestMarkBitsFollowTheirShift(t *testing.T) {
	enterNamespace(t)
	for _, shift := range []uint8{0, 4, 16, 24} {
		o := load(t, shift)
		p := home()
		p.Exempt = nil
		o.set(p)
		frame := ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN)))
		out := o.watch(t, "torbpf_lan", frame, skBuff{Ifindex: lanIndex, Mark: 0xffffffff})
		if want := 0xffffffff&^(0xff<<shift) | uint32(abi.VerdictTor)<<shift; out.mark != want {
			t.Errorf("with shift %d the mark is %#08x, want %#08x", shift, out.mark, want)
		}
	}
}

func TestErrorsComeFromTheDestinationOfARouterWithoutAddress(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	o.put("lans", uint32(lanIndex), abi.DatapathLan{})
	frame := ether(ip(laptop4, web4, ping()))
	out := o.watch(t, "torbpf_lan", frame, skBuff{Ifindex: lanIndex})
	if out.action != actRedirect {
		t.Fatalf("the program returns %#x, want an answer", out.action)
	}
	// Without an address of the router, the error comes from the destination.
	if from := readReply(t, out.frame[14:]).src.String(); from != web4 {
		t.Errorf("the error comes from %s, want %s", from, web4)
	}
}
