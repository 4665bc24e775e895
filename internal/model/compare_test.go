package model

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
)

// compare runs the program and the model on one frame and returns how they
// differ; errShort means that the kernel refused to run the program.
//
// It looks at one counter only, the one the model expects to move: that no
// other moves as well is the table's to check.
func (o *objects) compare(p *Policy, program string, frame []byte, mark uint32) error {
	k := Parse(frame, program == "torbpf_lan", Metadata{Protocol: stackProtocol(frame), Mark: mark})
	verdict, reason := p.Judge(k)
	if o.handing {
		here := bytes.HasPrefix(frame, routerMAC[:]) // which is where the kernel reads it of a packet without Ethernet, too
		verdict, reason = p.handed(k, here, verdict, reason)
	}
	key := counted{lanIndex, verdict, reason}
	before, known := o.counts[key]
	if !known {
		var err error
		if before, err = o.count(key); err != nil {
			return err
		}
	}
	out, err := o.run(program, frame, skBuff{Ifindex: lanIndex, Mark: mark})
	if err != nil {
		return err
	}
	after, err := o.count(key)
	if err != nil {
		return err
	}
	o.counts[key] = after
	if after != before+1 {
		return fmt.Errorf("the model says %s, %s of %+v, the program counts otherwise (and returns %#x with mark %#08x)",
			verdict, reason, k, out.action, out.mark)
	}
	class := verdict
	if reason == abi.ReasonExemptMark {
		class = abi.VerdictNone
	}
	passed := mark&^o.mark.Mask() | o.mark.Class(uint32(class))
	switch {
	case toTor(verdict), reason == abi.ReasonNoConnection:
		passed |= o.mark.Instance(p.Instance(k))
	case reason == abi.ReasonDirectDomain:
		passed |= o.mark.Instance(fleeting >> 28)
	}
	switch {
	case verdict == abi.VerdictRefused && out.action == actNext:
		return fmt.Errorf("a packet that counts as %s passes", reason)
	case verdict != abi.VerdictRefused && (out.action != actNext || out.mark != passed):
		return fmt.Errorf("a packet that counts as %s, %s: the program returns %#x with mark %#08x, want %#x with %#08x",
			verdict, reason, out.action, out.mark, uint32(actNext), passed)
	}
	return nil
}

// handed is what becomes of a packet where TCP is handed to tors' sockets, and there are none: it
// reaches nobody, and what conntrack knows of is its to say; here: it was sent to this machine alone.
func (p *Policy) handed(k Packet, here bool, verdict abi.Verdict, reason abi.Reason) (abi.Verdict, abi.Reason) {
	switch {
	case verdict != abi.VerdictTor && verdict != abi.VerdictOnion:
		return verdict, reason
	case !here, !k.begins():
		return abi.VerdictPending, abi.ReasonNoConnection
	case p.router(k.Src):
		return abi.VerdictRefused, abi.ReasonForeignSource
	default:
		return abi.VerdictRefused, abi.ReasonTorNotReady
	}
}

// toTor says whether a tor, or the sentry, gets what a verdict is about.
func toTor(v abi.Verdict) bool {
	return slices.Contains([]abi.Verdict{abi.VerdictTor, abi.VerdictOnion, abi.VerdictDNS, abi.VerdictResolver}, v)
}

// count reads one counter; one that has never moved is 0.
func (o *objects) count(key counted) (uint64, error) {
	var values []abi.DatapathCounter
	err := o.maps["counters"].Lookup(abi.DatapathCounterKey{
		Ifindex: key.ifindex, Verdict: key.verdict, Reason: key.reason,
	}, &values)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read counter of %s, %s: %w", key.verdict, key.reason, err)
	}
	return sumCounters(values).Packets, nil
}
