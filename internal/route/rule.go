package route

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// Our priorities. All between the first and the last belong to us, as far as
// rules carry our protocol.
const (
	priorityHandOver = plan.RulePriorityHandOver
	priorityBlocked  = plan.RulePriority
	priorityExempt   = plan.RulePriority + 1
	priorityUnjudged = plan.RulePriority + 2
	priorityEnd      = plan.RulePriority + 3
	priorityLast     = plan.RulePriority + 9
)

// classUnassigned is set in the classes from 4 to 7, which no verdict has but the first.
const classUnassigned = abi.VerdictVia

// families in which there are rules, IPv4 first.
var families = []uint8{unix.AF_INET, unix.AF_INET6}

// rule is an ip rule as far as ours differ from one another.
type rule struct {
	family   uint8
	priority uint32
	iif      string // "" for any interface
	mark     uint32
	mask     uint32 // 0: whatever the mark
	action   uint8  // FR_ACT_BLACKHOLE, FR_ACT_GOTO, FR_ACT_NOP or FR_ACT_TO_TBL
	table    uint32 // of FR_ACT_TO_TBL
	target   uint32 // of a goto
}

// wanted returns the rules of a plan in the order in which they are added.
func wanted(p *plan.Plan, family uint8) []rule {
	rules := handOvers(p, family)
	block := func(lans []string, priority uint32, mark, mask uint32) {
		for _, lan := range lans {
			rules = append(rules, rule{
				family: family, priority: priority, iif: lan, mark: mark, mask: mask, action: nl.FR_ACT_BLACKHOLE,
			})
		}
	}
	blocked := p.Mark.Class(abi.VerdictBlockedBit)
	block(p.BlockedNames(), priorityBlocked, blocked, blocked)
	unjudged := p.BlockedNames()
	if family == unix.AF_INET {
		unjudged = p.Waiting // nothing is forwarded to them, so no way back is asked for
	}
	if exempt := exemptions(p); family == unix.AF_INET6 && len(exempt) > 0 {
		rules = append(rules, rule{family: family, priority: priorityEnd, action: nl.FR_ACT_NOP})
		rules = append(rules, exempt...)
	}
	block(unjudged, priorityUnjudged, p.Mark.Class(uint32(abi.VerdictNone)), p.Mark.ClassMask())
	unassigned := func(lans []string, bits abi.Verdict) {
		class := p.Mark.Class(uint32(classUnassigned | bits))
		block(lans, priorityUnjudged, class, class)
	}
	unassigned(p.Waiting, 0) // no program is there to have given that class
	if family == unix.AF_INET6 {
		unassigned(p.LANNames(), 1)
		unassigned(p.LANNames(), 2)
	}
	return rules
}

// handOvers deliver here what the programs have handed to tor's socket. They are asked before
// those that block: where they, or their route, are missing, those count.
func handOvers(p *plan.Plan, family uint8) []rule {
	if !p.TProxy {
		return nil
	}
	var rules []rule
	for _, lan := range p.LANNames() {
		rules = append(rules, rule{
			family: family, priority: priorityHandOver, iif: lan, mark: p.Mark.Class(uint32(abi.VerdictTor)), mask: p.Mark.Class(abi.VerdictTorBits),
			action: nl.FR_ACT_TO_TBL, table: plan.RouteTable,
		})
	}
	return rules
}

// exemptions returns the jumps of packets without a class whose mark the user
// exempted. An exemption that packets without any mark match would open the
// guard for all, and one with a class of its own is none that nftables makes:
// neither gets a jump, which blocks.
func exemptions(p *plan.Plan) []rule {
	var rules []rule
	for _, m := range p.ExemptMarks() {
		value := m.Value & m.Mask
		if value == 0 || value&p.Mark.ClassMask() != 0 {
			continue
		}
		rules = append(rules, rule{
			family: unix.AF_INET6, priority: priorityExempt, mark: value, mask: m.Mask | p.Mark.ClassMask(),
			action: nl.FR_ACT_GOTO, target: priorityEnd,
		})
	}
	return rules
}

// String is the command that would add the rule.
func (r rule) String() string {
	var b strings.Builder
	version := 4
	if r.family == unix.AF_INET6 {
		version = 6
	}
	fmt.Fprintf(&b, "ip -%d rule add priority %d protocol %d", version, r.priority, plan.RuleProtocol)
	if r.iif != "" {
		fmt.Fprintf(&b, " iif %s", r.iif)
	}
	if r.mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.mark, r.mask)
	}
	switch r.action {
	case nl.FR_ACT_BLACKHOLE:
		b.WriteString(" blackhole")
	case nl.FR_ACT_GOTO:
		fmt.Fprintf(&b, " goto %d", r.target)
	case nl.FR_ACT_TO_TBL:
		fmt.Fprintf(&b, " lookup %d", r.table)
	case nl.FR_ACT_NOP:
		b.WriteString(" nop")
	}
	return b.String()
}
