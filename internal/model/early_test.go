package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// What an XDP program returns (linux/bpf.h).
const (
	xdpDrop = 1
	xdpPass = 2
)

// generation is by what the LAN program knows what the XDP program of its own load hands on.
const generation = 0x746f72

// handed is struct handed of bpf/early.h.
type handed struct {
	Generation, Judged uint64
	Verdict            abi.Verdict
	Reason             abi.Reason
}

// TestEarlyAgrees compares the XDP program with the model on random packets under random
// policies: it drops what the model refuses of a device that was told often enough, and
// hands on what the model says of all else.
func TestEarlyAgrees(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	d := newDice(3)
	dropped, passed, start := 0, 0, time.Now()
	for dropped+passed < agreePackets/4 && time.Since(start) < agreeTime {
		p := d.policy()
		frames := d.batch(p, "torbpf_lan", agreeBatch)
		o.set(p)
		for _, frame := range frames {
			early, err := o.compareEarly(p, frame, d.one(2))
			if errors.Is(err, errShort) {
				continue
			}
			if err != nil {
				t.Fatalf("under %+v on\n% x:\n%v", *p, frame, err)
			}
			if early {
				dropped++
			} else {
				passed++
			}
		}
	}
	t.Logf("%d packets dropped, %d passed in %s", dropped, passed, time.Since(start).Round(time.Millisecond))
	if dropped == 0 || passed == 0 {
		t.Error("that is not both")
	}
}

// compareEarly runs the XDP program on a frame of a device that has spent what it may be told,
// or has not, and tells whether it was dropped.
func (o *objects) compareEarly(p *Policy, frame []byte, spent bool) (dropped bool, err error) {
	k := Parse(frame, true, Metadata{Protocol: stackProtocol(frame)})
	spentUntil := uint64(1)
	if spent {
		spentUntil = 1 << 62
	}
	o.allow(k.Src, spentUntil)
	verdict, reason := p.Classify(k)
	key := counted{lanIndex, verdict, reason}
	before, err := o.count(key)
	if err != nil {
		return false, err
	}
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	action, err := o.progs["torbpf_early"].Run(&opts)
	if errors.Is(err, unix.EINVAL) && len(frame) < 14+40 {
		return false, errShort
	}
	if err != nil {
		return false, err
	}
	after, err := o.count(key)
	if err != nil {
		return false, err
	}
	judged := (k.Layer3 == IPv4 || k.Layer3 == IPv6) && !tagged(frame)
	final := verdict == abi.VerdictRefused && reason != abi.ReasonDNSNoData
	switch want := judged && final && spent; {
	case want != (action == xdpDrop) || !want && action != xdpPass:
		return false, fmt.Errorf("the program returns %d, the model says %s, %s of %+v, told enough: %v", action, verdict, reason, k, spent)
	case want && after != before+1 || !want && after != before:
		return false, fmt.Errorf("the program returns %d and counts %d as %s, %s", action, after-before, verdict, reason)
	case want:
		return true, nil
	}
	return false, checkHanded(opts.DataOut[:len(opts.DataOut)-len(frame)], olderThan(o.tb, 5, 18), judged, verdict, reason)
}

// tagged tells whether a frame has a VLAN tag in its bytes.
func tagged(frame []byte) bool {
	etherType := binary.BigEndian.Uint16(frame[12:])
	return etherType == unix.ETH_P_8021Q || etherType == unix.ETH_P_8021AD
}

// checkHanded looks at what stands before a frame that passed. What a question changes is
// decided behind it, and kernels before 5.18 show nothing of it.
func checkHanded(before []byte, old, judged bool, verdict abi.Verdict, reason abi.Reason) error {
	if len(before) == 0 && judged && old {
		return nil
	}
	if (len(before) > 0) != judged {
		return fmt.Errorf("%d bytes are handed on of a packet that is judged: %v", len(before), judged)
	}
	if !judged {
		return nil
	}
	var h handed
	if _, err := binary.Decode(before, binary.NativeEndian, &h); err != nil {
		return err
	}
	if h.Generation != generation {
		return fmt.Errorf("handed on by generation %#x", h.Generation)
	}
	question := reason == abi.ReasonDNSNoData || reason == abi.ReasonDNSLocal || reason == abi.ReasonDNSDomain
	if question && (h.Reason == abi.ReasonDNSUDP || h.Reason == abi.ReasonOnionDNS) {
		return nil
	}
	if h.Verdict != verdict || h.Reason != reason {
		return fmt.Errorf("handed on is %s, %s, the model says %s, %s", h.Verdict, h.Reason, verdict, reason)
	}
	return nil
}
