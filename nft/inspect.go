package nft

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// outcomes are what may become of a packet, as bits: of what is not known, more than one.
type outcomes uint8

const (
	mayPass outcomes = 1 << iota
	mayStop
	mayGoOn  // to the rule that follows
	mayLeave // back to the chain before
)

// depth is how far chains may lead to one another, as the kernel has it (NFT_JUMP_STACK_SIZE).
const depth = 16

// inspection goes through somebody else's chains with one packet.
type inspection struct {
	machine
	unread map[int]bool // registers whose content is not known, by their offset
}

// inspect begins one in a table.
func (p OtherPacket) inspect(t *ruleset) *inspection {
	own := OwnPacket{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, Hops: 64}
	return &inspection{machine: machine{
		rules: t, packet: own.wire(), mark: p.Mark, replyPort: p.Dst.Port(),
		in: p.Interface, inIndex: p.Index, out: p.Out, ctDNAT: p.Redirected, ctNone: p.Untracked,
	}}
}

// judge goes through a chain at a hook.
func (i *inspection) judge(c chain) outcomes {
	out := i.walk(c, depth)
	if out&(mayGoOn|mayLeave) == 0 {
		return out
	}
	out &^= mayGoOn | mayLeave
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return out | mayStop
	}
	return out | mayPass
}

func (i *inspection) walk(c chain, deep int) outcomes {
	var out outcomes
	for _, r := range c.rules {
		one := i.rule(r, deep)
		out |= one &^ mayGoOn
		if one&mayGoOn == 0 {
			return out
		}
	}
	return out | mayGoOn
}

// rule goes through one. What it needs to match and is not known makes it one that may.
func (i *inspection) rule(r rule, deep int) outcomes {
	i.unread = make(map[int]bool)
	perhaps := outcomes(0)
	for _, e := range r.exprs {
		how, verdict, known := i.one(e)
		switch {
		case !known:
			perhaps = mayGoOn
		case how == noMatch:
			return mayGoOn
		}
		switch {
		case verdict != nil:
			return perhaps | i.verdict(verdict, deep)
		case how == stops || how == resets:
			return perhaps | mayStop
		case how == passes:
			return perhaps | mayPass
		}
	}
	return mayGoOn
}

func (i *inspection) verdict(v *expr.Verdict, deep int) outcomes {
	switch v.Kind {
	case expr.VerdictAccept:
		return mayPass
	case expr.VerdictDrop:
		return mayStop
	case expr.VerdictReturn:
		return mayLeave
	case expr.VerdictJump, expr.VerdictGoto:
		at := slices.IndexFunc(i.rules.chains, func(c chain) bool { return c.Name == v.Chain })
		if at < 0 || deep == 0 {
			return mayPass | mayStop | mayGoOn
		}
		out := i.walk(i.rules.chains[at], deep-1)
		if out&(mayGoOn|mayLeave) == 0 {
			return out
		}
		out &^= mayGoOn | mayLeave
		if v.Kind == expr.VerdictGoto {
			return out | mayLeave
		}
		return out | mayGoOn
	}
	return mayPass | mayStop // handed to a program
}

// one goes through one expression; known tells whether it could be done.
func (i *inspection) one(e expr.Any) (how end, verdict *expr.Verdict, known bool) {
	switch e := e.(type) {
	case *expr.Verdict:
		return goesOn, e, true
	case *expr.Counter, *expr.Log, *expr.Notrack, *expr.FlowOffload:
		return goesOn, nil, true
	case *expr.Objref:
		return goesOn, nil, e.Type == unix.NFT_OBJECT_COUNTER
	case *expr.Match:
		holds, known := i.match(e)
		return holding(holds), nil, known
	case *expr.Target:
		return i.target(e)
	case *expr.Limit, *expr.Quota, *expr.Connlimit, *expr.Dynset:
		return goesOn, nil, false
	case *expr.Reject:
		return stops, nil, true
	case *expr.Queue:
		return goesOn, &expr.Verdict{Kind: expr.VerdictQueue}, true
	}
	return i.register(e)
}

// register is for what goes through registers.
func (i *inspection) register(e expr.Any) (end, *expr.Verdict, bool) {
	reads, writes := registersOf(e)
	if slices.ContainsFunc(reads, func(r uint32) bool { return i.unread[offset(r)] }) || !i.answers(e) {
		i.learn(writes, false)
		return goesOn, nil, false
	}
	how, verdict, err := i.evaluate(e)
	i.learn(writes, err == nil)
	return how, verdict, err == nil
}

func (i *inspection) learn(written []uint32, known bool) {
	for _, r := range written {
		i.unread[offset(r)] = !known
	}
}

// registersOf tells what an expression reads and writes.
func registersOf(e expr.Any) (reads, writes []uint32) {
	switch e := e.(type) {
	case *expr.Meta:
		if e.SourceRegister {
			return []uint32{e.Register}, nil
		}
		return nil, []uint32{e.Register}
	case *expr.Ct:
		if e.SourceRegister {
			return []uint32{e.Register}, nil
		}
		return nil, []uint32{e.Register}
	case *expr.Payload:
		return nil, []uint32{e.DestRegister}
	case *expr.Fib:
		return nil, []uint32{e.Register}
	case *expr.Socket:
		return nil, []uint32{e.Register}
	case *expr.Immediate:
		return nil, []uint32{e.Register}
	case *expr.Bitwise:
		return []uint32{e.SourceRegister}, []uint32{e.DestRegister}
	case *expr.Byteorder:
		return []uint32{e.SourceRegister}, []uint32{e.DestRegister}
	case *expr.Cmp:
		return []uint32{e.Register}, nil
	case *expr.Range:
		return []uint32{e.Register}, nil
	case *expr.Lookup:
		return []uint32{e.SourceRegister}, nil
	}
	return nil, nil
}

// answers tells whether the machine knows the answer to an expression: it was made for what this
// machine itself sends, and for our own rules.
func (i *inspection) answers(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Socket:
		return false // nobody has one yet, or somebody has
	case *expr.Fib:
		return e.ResultADDRTYPE && e.FlagDADDR && i.out == ""
	case *expr.Payload:
		return e.OperationType == expr.PayloadLoad && e.Base != expr.PayloadBaseLLHeader
	case *expr.Meta:
		return !e.SourceRegister || e.Key == expr.MetaKeyMARK
	case *expr.Lookup:
		at := slices.IndexFunc(i.rules.sets, func(s set) bool { return s.Name == e.SetName })
		if at < 0 {
			return false
		}
		s := i.rules.sets[at]
		ranges := slices.ContainsFunc(s.elements, func(e nftables.SetElement) bool { return e.KeyEnd != nil })
		return (!s.IsMap || hasVerdicts(s.Set)) && (!s.Concatenation || !ranges) && s.KeyType.Bytes <= registers
	}
	return true
}

// port is one of the packet's, by where it is in its header.
func (i *inspection) port(at int) uint16 { return binary.BigEndian.Uint16(i.packet.transport[at:]) }

// target is for what iptables-nft ends its rules with.
func (i *inspection) target(e *expr.Target) (end, *expr.Verdict, bool) {
	switch e.Name {
	case "REJECT":
		return stops, nil, true
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "TRACE", "CT", "NOTRACK", "TOS", "DSCP":
		return goesOn, nil, true
	}
	return goesOn, &expr.Verdict{Kind: expr.VerdictQueue}, false
}
