package nft

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// Judge tells what becomes of packets that this machine itself sends, by the rules in force:
// the very value that has been written, once the kernel has been found to have the same. So
// nothing has to be sent, and nothing in it can say other than what is enforced.
type Judge struct {
	rules *ruleset
	mark  plan.Mark
}

// InForce returns the judge of the plan's table; differences are those that the kernel's has,
// where it is another one.
func InForce(p *plan.Plan) (j *Judge, differences []string, err error) {
	for _, strict := range []bool{false, true} {
		found, err := check(p, strict)
		if err != nil {
			return nil, nil, err
		}
		if len(found) == 0 {
			rs, err := builder{Plan: p, strict: strict}.build()
			return &Judge{rs, p.Mark}, nil, err
		}
		if differences == nil {
			differences = found // from the one that most kernels can have
		}
	}
	return nil, differences, nil
}

// OwnPacket is the first of a flow that this machine itself sends.
type OwnPacket struct {
	Protocol  uint8 // of ICMP an echo request is meant
	Src, Dst  netip.AddrPort
	Interface string // that its route leads to
	Mark      uint32 // that of its socket
	Hops      uint8
	Flags     uint8 // of TCP; 0: a SYN
	Forged    bool  // its source is not of this machine
}

// OwnFate is what becomes of one.
type OwnFate struct {
	Passed bool
	Reset  bool   // of what does not pass: it is told so
	Mark   uint32 // in the end
	Class  abi.Verdict
	Port   uint16 // on this machine that it is redirected to; 0: it is not
	Reason abi.Reason
	Rule   *config.Rule // of the user's, by which; nil: none
	// The rule of nftables that decided, and that of the guard which let it not pass.
	Chain, Comment string
	Counter        string
}

// Judge goes through all chains that a packet meets.
func (j *Judge) Judge(p OwnPacket, now time.Time) (OwnFate, error) {
	m := &machine{
		rules: j.rules, now: now, packet: p.wire(), mark: p.Mark, socket: p.Mark,
		replyPort: p.Dst.Port(), out: p.Interface, forged: p.Forged,
	}
	how, err := m.pass(nftables.ChainHookOutput)
	if err != nil {
		return OwnFate{}, err
	}
	judged := len(m.steps)
	if how == passes {
		if m.ctDNAT {
			m.out = "lo"
		}
		if how, err = m.pass(nftables.ChainHookPostrouting); err != nil {
			return OwnFate{}, err
		}
	}
	fate := OwnFate{Passed: how == passes, Reset: how == resets, Mark: m.mark}
	fate.Class = abi.Verdict(m.mark >> j.mark.Shift & 0xf)
	if m.ctDNAT {
		fate.Port = m.replyPort
	}
	if !fate.Passed {
		fate.Counter = m.counter
	}
	fate.explain(m.steps[:judged])
	fate.Reason = p.refine(fate.Reason)
	return fate, nil
}

// explain finds which of the rules that matched has given the class, or has undone it.
func (f *OwnFate) explain(steps []step) {
	for _, s := range steps {
		if s.rule.by != nil {
			f.Rule = s.rule.by
		}
		if s.rule.reason != abi.ReasonNone {
			f.Reason, f.Chain, f.Comment = s.rule.reason, s.chain, s.rule.comment
			break
		}
	}
	if f.Passed || f.Counter == RefusedClient || len(steps) == 0 {
		return
	}
	last := steps[len(steps)-1]
	f.Reason, f.Chain, f.Comment = abi.ReasonClientGuard, last.chain, last.rule.comment
}

// refine says more of the reasons that several kinds of packets have in common.
func (p OwnPacket) refine(reason abi.Reason) abi.Reason {
	switch reason {
	case abi.ReasonLocalSubnet:
		return nearReason(p.Dst.Addr())
	case abi.ReasonDNSUDP:
		if p.Protocol == unix.IPPROTO_TCP {
			return abi.ReasonDNSTCP
		}
	case abi.ReasonProtocol:
		return refusedReason(p.Protocol, p.Dst.Port())
	}
	return reason
}

func nearReason(dst netip.Addr) abi.Reason {
	switch {
	case dst.IsMulticast() || dst == everybody.Addr():
		return abi.ReasonMulticast
	case linkLocal.Contains(dst):
		return abi.ReasonLinkLocal
	}
	return abi.ReasonLocalSubnet
}

// refusedReason is why Tor does not carry it.
func refusedReason(protocol uint8, port uint16) abi.Reason {
	const https, ntp = 443, 123
	switch {
	case protocol == unix.IPPROTO_UDP && port == https:
		return abi.ReasonQUIC
	case protocol == unix.IPPROTO_UDP && port == ntp:
		return abi.ReasonNTP
	case protocol == unix.IPPROTO_UDP:
		return abi.ReasonUDP
	case protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6:
		return abi.ReasonICMP
	}
	return abi.ReasonProtocol
}

// wire makes the packet.
func (p OwnPacket) wire() wire {
	w := wire{family: familyOf(p.Dst.Addr()), protocol: p.Protocol}
	w.network = make([]byte, 20)
	w.network[0] = 0x45
	if w.family == ipv6 {
		w.network = make([]byte, 40)
		w.network[0] = 0x60
	}
	w.network[w.family.hops] = p.Hops
	copy(w.network[w.family.source:], p.Src.Addr().AsSlice())
	copy(w.network[w.family.destination:], p.Dst.Addr().AsSlice())
	w.transport = make([]byte, 20)
	binary.BigEndian.PutUint16(w.transport[sourcePort:], p.Src.Port())
	binary.BigEndian.PutUint16(w.transport[destinationPort:], p.Dst.Port())
	switch p.Protocol {
	case unix.IPPROTO_TCP:
		w.transport[tcpFlags] = p.Flags
		if p.Flags == 0 {
			w.transport[tcpFlags] = tcpSYN
		}
	case unix.IPPROTO_ICMP:
		w.transport[0] = icmp4.echo
	case unix.IPPROTO_ICMPV6:
		w.transport[0] = icmp6.echo
	}
	return w
}
