package model

import (
	"net/netip"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
)

// What one device may be told of its refusals (bpf/verdict.h).
const (
	tellInterval = 10 * time.Millisecond
	tellBurst    = 200
)

// TestOneDeviceIsToldTwoHundredTimes floods. Whatever the clock does meanwhile,
// all is dropped and counted, and no more is answered than the time allows.
func TestOneDeviceIsToldTwoHundredTimes(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	const flood = 1000
	frame := ether(ip(laptop4, web4, udp(40000, 27015, 'x')))
	neighbour := ether(ip(printer4, web4, udp(40000, 27015, 'x')))
	before := o.tally()
	start := time.Now()
	answered := 0
	for range flood {
		out, err := o.run("torbpf_lan", frame, skBuff{Ifindex: lanIndex})
		if err != nil {
			t.Fatal(err)
		}
		switch out.action {
		case actRedirect:
			answered++
		case actShot:
		default:
			t.Fatalf("the program returns %#x", out.action)
		}
	}
	earned := int(time.Since(start)/tellInterval) + 1
	if answered < tellBurst || answered > tellBurst+earned {
		t.Errorf("%d of %d refusals were answered, want %d and up to %d for the time it took", answered, flood, tellBurst, earned)
	}
	key := counted{lanIndex, abi.VerdictRefused, abi.ReasonUDP}
	if n := o.tally()[key].Packets - before[key].Packets; n != flood {
		t.Errorf("%d refusals were counted, want %d", n, flood)
	}
	if out := o.watch(t, "torbpf_lan", neighbour, skBuff{Ifindex: lanIndex}); out.action != actRedirect {
		t.Errorf("the program returns %#x to another device, want an answer", out.action)
	}
}

// TestWhoHasSpentAllIsAskedOnceAJiffy: until then nobody looks how much it may be told.
func TestWhoHasSpentAllIsAskedOnceAJiffy(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	frame, other := ether(ip(laptop4, web4, udp(40000, 27015, 'x'))), ether(ip(laptop6, web6, udp(40000, 27015, 'x')))
	action := func(frame []byte) uint32 {
		out, err := o.run("torbpf_lan", frame, skBuff{Ifindex: lanIndex})
		if err != nil {
			t.Fatal(err)
		}
		return out.action
	}
	o.allow(netip.MustParseAddr(laptop4), 1<<62)
	if got := action(frame); got != actShot {
		t.Fatalf("who has spent all gets %#x", got)
	}
	if got := action(other); got != actRedirect {
		t.Errorf("its other address gets %#x, want an answer", got)
	}
	if got := action(frame); got != actShot { // noted anew: one address at a time
		t.Fatalf("who has spent all gets %#x", got)
	}
	o.put("allowances", abi.DatapathAddress{Addr: as16(laptop4)}, abi.DatapathAllowance{SpentUntilNs: 1})
	const jiffies = 100 * time.Millisecond // several of the longest there are
	start := time.Now()
	for action(frame) != actRedirect {
		if time.Since(start) > jiffies {
			t.Fatal("it is told nothing a while later")
		}
	}
}

// TestAllowanceEndsAtTheBurst sets the clock of a device around its limits.
func TestAllowanceEndsAtTheBurst(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	frame := ether(ip(laptop6, web6, udp(40000, 27015, 'x')))
	device := abi.DatapathAddress{Addr: as16(laptop6)}
	spentUntil := func(ns uint64) uint32 {
		t.Helper()
		o.allow(netip.MustParseAddr(laptop6), ns)
		out, err := o.run("torbpf_lan", frame, skBuff{Ifindex: lanIndex})
		if err != nil {
			t.Fatal(err)
		}
		return out.action
	}
	if got := spentUntil(monotonic(t) + uint64(time.Hour)); got != actShot {
		t.Errorf("a device that has spent all gets %#x, want %#x", got, actShot)
	}
	if got := spentUntil(1); got != actRedirect {
		t.Errorf("a device that has been quiet gets %#x, want an answer", got)
	}
	var allowance abi.DatapathAllowance
	if err := o.maps["allowances"].Lookup(device, &allowance); err != nil {
		t.Fatal(err)
	}
	if now := monotonic(t); allowance.SpentUntilNs == 1 || allowance.SpentUntilNs > now+uint64(tellInterval) {
		t.Errorf("an answer to a quiet device costs it until %d, now is %d", allowance.SpentUntilNs, now)
	}
	// With less than one telling left there is none. The clock runs on
	// between the two readings, so try until it was quick enough.
	for range 100 {
		before := monotonic(t)
		got := spentUntil(before + uint64(tellBurst*tellInterval-tellInterval/2))
		if monotonic(t)-before < uint64(tellInterval/2) {
			if got != actShot {
				t.Errorf("with half a telling left a device gets %#x, want %#x", got, actShot)
			}
			return
		}
	}
	t.Error("this machine is too slow to tell: 100 runs took half an interval each")
}
