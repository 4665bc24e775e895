package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// machine goes through a ruleset as the kernel does with one packet, the first of a flow that
// this machine itself sends. It knows the expressions that expr.go makes, and no others: a
// rule that it cannot read ends it with an error.
type machine struct {
	rules  *ruleset
	now    time.Time
	packet wire
	mark   uint32
	ctMark uint32
	ctDNAT bool
	ctNone bool // conntrack knows nothing of it
	// replyPort is where an answer comes from, as conntrack will know it.
	replyPort uint16
	socket    uint32 // the mark of the socket
	in        string // the interface by which it came in; "" for none
	inIndex   int
	out       string // the interface
	forged    bool   // its source is not of this machine
	registers [registers]byte
	counter   string // the last that counted
	steps     []step
}

// wire is a packet as rules load it.
type wire struct {
	family             family
	protocol           byte
	network, transport []byte
}

// step is a rule that matched.
type step struct {
	chain string
	rule  *rule
}

// registers is how many bytes there are: 16 words.
const registers = 64

// offset is where a register begins, by either of its names.
func offset(register uint32) int {
	if register >= unix.NFT_REG32_00 {
		return int(register-unix.NFT_REG32_00) * 4
	}
	return int(register-unix.NFT_REG_1) * 16
}

// end is how a chain, or a rule, ends for a packet.
type end int

const (
	goesOn  end = iota // to the next rule, or back to the chain before
	noMatch            // the rule is not about it
	leaves             // back to the chain before
	passes
	stops
	resets
)

// hooked lists the chains at a hook in the order in which packets meet them.
func (rs *ruleset) hooked(hook *nftables.ChainHook) []chain {
	var out []chain
	for _, c := range rs.chains {
		if c.Hooknum != nil && *c.Hooknum == *hook {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b chain) int { return int(*a.Priority) - int(*b.Priority) })
	return out
}

// pass goes through all chains of a hook.
func (m *machine) pass(hook *nftables.ChainHook) (end, error) {
	for _, c := range m.rules.hooked(hook) {
		how, err := m.run(c)
		if err != nil {
			return stops, err
		}
		if how != passes && how != stops && how != resets {
			how = passes
			if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				how = stops
			}
		}
		if how != passes {
			return how, nil
		}
	}
	return passes, nil
}

func (m *machine) run(c chain) (end, error) {
	for i := range c.rules {
		r := &c.rules[i]
		how, err := m.apply(c.Name, r)
		if err != nil {
			return stops, fmt.Errorf("chain %s, %q: %w", c.Name, r.comment, err)
		}
		if how == leaves {
			return goesOn, nil
		}
		if how != goesOn && how != noMatch {
			return how, nil
		}
	}
	return goesOn, nil
}

// apply goes through one rule; what it ends with but does not match is nothing.
func (m *machine) apply(in string, r *rule) (end, error) {
	for i, e := range r.exprs {
		if verdict, ok := e.(*expr.Verdict); ok {
			m.steps = append(m.steps, step{in, r})
			return m.follow(verdict)
		}
		how, next, err := m.evaluate(e)
		switch {
		case err != nil:
			return stops, err
		case how == noMatch:
			return noMatch, nil
		case next != nil:
			m.steps = append(m.steps, step{in, r})
			return m.follow(next)
		case how != goesOn:
			m.steps = append(m.steps, step{in, r})
			return how, nil
		case i == len(r.exprs)-1:
			m.steps = append(m.steps, step{in, r})
		}
	}
	return goesOn, nil
}

func (m *machine) follow(v *expr.Verdict) (end, error) {
	switch v.Kind {
	case expr.VerdictAccept:
		return passes, nil
	case expr.VerdictDrop:
		return stops, nil
	case expr.VerdictReturn:
		return leaves, nil
	case expr.VerdictJump, expr.VerdictGoto:
		i := slices.IndexFunc(m.rules.chains, func(c chain) bool { return c.Name == v.Chain })
		if i < 0 {
			return stops, fmt.Errorf("it leads to the chain %s, which there is not", v.Chain)
		}
		how, err := m.run(m.rules.chains[i])
		if how == goesOn && v.Kind == expr.VerdictGoto {
			how = leaves
		}
		return how, err
	}
	return stops, fmt.Errorf("it has the verdict %v", v.Kind)
}

// store writes to a register, the rest of whose last word is zero as in the kernel.
func (m *machine) store(register uint32, data []byte) {
	at := offset(register)
	clear(m.registers[at : at+(len(data)+3)/4*4])
	copy(m.registers[at:], data)
}

func (m *machine) load(register uint32, size int) []byte {
	at := offset(register)
	return m.registers[at : at+size]
}

// holding turns a comparison into how the rule goes on.
func holding(holds bool) end {
	if holds {
		return goesOn
	}
	return noMatch
}

// evaluate goes through one expression; a look-up in a map may give a verdict.
func (m *machine) evaluate(e expr.Any) (end, *expr.Verdict, error) {
	switch e := e.(type) {
	case *expr.Meta:
		return goesOn, nil, m.meta(e)
	case *expr.Ct:
		return goesOn, nil, m.ct(e)
	case *expr.Payload:
		return m.loadPayload(e), nil, nil
	case *expr.Socket:
		m.store(e.Register, native(m.socket))
	case *expr.Fib:
		kind := uint32(unix.RTN_LOCAL)
		if m.forged {
			kind = unix.RTN_UNICAST
		}
		m.store(e.Register, native(kind))
	case *expr.Bitwise:
		value := slices.Clone(m.load(e.SourceRegister, int(e.Len)))
		for i := range value {
			value[i] = value[i]&e.Mask[i] ^ e.Xor[i]
		}
		m.store(e.DestRegister, value)
	case *expr.Byteorder:
		value := slices.Clone(m.load(e.SourceRegister, int(e.Len)))
		slices.Reverse(value)
		m.store(e.DestRegister, value)
	case *expr.Immediate:
		m.store(e.Register, e.Data)
	case *expr.Cmp:
		return holding(compares(e.Op, m.load(e.Register, len(e.Data)), e.Data)), nil, nil
	case *expr.Range:
		value := m.load(e.Register, len(e.FromData))
		within := bytes.Compare(value, e.FromData) >= 0 && bytes.Compare(value, e.ToData) <= 0
		return holding(within == (e.Op == expr.CmpOpEq)), nil, nil
	case *expr.Lookup:
		return m.lookUp(e)
	case *expr.Objref:
		m.counter = e.Name
	default:
		return m.act(e)
	}
	return goesOn, nil, nil
}

// act is for what a rule does in the end.
func (m *machine) act(e expr.Any) (end, *expr.Verdict, error) {
	switch e := e.(type) {
	case *expr.Reject:
		if e.Type == unix.NFT_REJECT_TCP_RST {
			return resets, nil, nil
		}
		return stops, nil, nil
	case *expr.Redir:
		m.replyPort, m.ctDNAT = binary.BigEndian.Uint16(m.load(e.RegisterProtoMin, 2)), true
		m.redirect()
		return passes, nil, nil
	case *expr.NAT:
		copy(m.packet.network[m.packet.family.source:], m.load(e.RegAddrMin, int(m.packet.family.size)))
		return passes, nil, nil
	}
	return stops, nil, fmt.Errorf("it has an expression of the type %T", e)
}

// redirect writes the destination of what goes to this machine instead.
func (m *machine) redirect() {
	for _, p := range loopbacks {
		if familyOf(p.Addr()) == m.packet.family {
			copy(m.packet.network[m.packet.family.destination:], p.Addr().AsSlice())
		}
	}
	binary.BigEndian.PutUint16(m.packet.transport[destinationPort:], m.replyPort)
}

func compares(op expr.CmpOp, value, with []byte) bool {
	c := bytes.Compare(value, with)
	switch op {
	case expr.CmpOpEq:
		return c == 0
	case expr.CmpOpNeq:
		return c != 0
	case expr.CmpOpLt:
		return c < 0
	case expr.CmpOpLte:
		return c <= 0
	case expr.CmpOpGt:
		return c > 0
	default:
		return c >= 0
	}
}

func (m *machine) meta(e *expr.Meta) error {
	if e.SourceRegister {
		m.mark = binaryutil.NativeEndian.Uint32(m.load(e.Register, 4)) // no rule writes anything else
		return nil
	}
	var value []byte
	switch e.Key {
	case expr.MetaKeyMARK:
		value = native(m.mark)
	case expr.MetaKeyL4PROTO:
		value = []byte{m.packet.protocol}
	case expr.MetaKeyNFPROTO:
		value = []byte{m.packet.family.number}
	case expr.MetaKeyOIFNAME:
		value = paddedName(m.out)
	case expr.MetaKeyIIFNAME:
		value = paddedName(m.in)
	case expr.MetaKeyIIF:
		value = native(uint32(m.inIndex))
	case metaTime:
		value = binary.NativeEndian.AppendUint64(nil, nanoseconds(m.now))
	default:
		return fmt.Errorf("it asks for meta key %d", e.Key)
	}
	m.store(e.Register, value)
	return nil
}

func (m *machine) ct(e *expr.Ct) error {
	if e.SourceRegister {
		m.ctMark = binaryutil.NativeEndian.Uint32(m.load(e.Register, 4))
		return nil
	}
	var value []byte
	switch e.Key {
	case expr.CtKeySTATE:
		value = native(expr.CtStateBitNEW)
		if m.ctNone {
			value = native(expr.CtStateBitUNTRACKED)
		}
	case expr.CtKeyDIRECTION:
		value = []byte{original}
	case expr.CtKeySTATUS:
		value = native(0)
		if m.ctDNAT {
			value = native(statusDNAT)
		}
	case expr.CtKeyMARK:
		value = native(m.ctMark)
	case expr.CtKeyPROTOCOL:
		value = []byte{m.packet.protocol}
	case expr.CtKeyPROTOSRC:
		value = binary.BigEndian.AppendUint16(nil, m.replyPort)
	default:
		return fmt.Errorf("it asks conntrack for key %d", e.Key)
	}
	m.store(e.Register, value)
	return nil
}

func (m *machine) loadPayload(e *expr.Payload) end {
	header := m.packet.network
	if e.Base == expr.PayloadBaseTransportHeader {
		header = m.packet.transport
	}
	if int(e.Offset+e.Len) > len(header) {
		return noMatch
	}
	m.store(e.DestRegister, header[e.Offset:e.Offset+e.Len])
	return goesOn
}

func (m *machine) lookUp(e *expr.Lookup) (end, *expr.Verdict, error) {
	i := slices.IndexFunc(m.rules.sets, func(s set) bool { return s.Name == e.SetName })
	if i < 0 {
		return stops, nil, fmt.Errorf("it looks into the set %s, which there is not", e.SetName)
	}
	s := &m.rules.sets[i]
	element := s.find(m.load(e.SourceRegister, int(s.KeyType.Bytes)))
	if s.IsMap && element != nil {
		return goesOn, element.VerdictData, nil
	}
	return holding((element != nil) != e.Invert), nil, nil
}

// find returns the element that a key is, or is in; nil for none.
func (s *set) find(key []byte) *nftables.SetElement {
	if s.Interval && !s.Concatenation {
		for _, i := range intervals(s.elements) {
			if bytes.Compare(key, i[0].Key) >= 0 && (len(i) == 1 || bytes.Compare(key, i[1].Key) < 0) {
				return &i[0]
			}
		}
		return nil
	}
	for i := range s.elements {
		e := &s.elements[i]
		last := e.KeyEnd // of a concatenation only the last field is a range
		if last == nil {
			last = e.Key
		}
		if bytes.Compare(key, e.Key) >= 0 && bytes.Compare(key, last) <= 0 {
			return e
		}
	}
	return nil
}
