package nft

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// ruleset is the whole table as a value: Apply writes it, Check compares it
// with what the kernel has.
type ruleset struct {
	table      *nftables.Table
	counters   []string
	flowtables []*nftables.Flowtable
	sets       []set
	chains     []chain
}

type set struct {
	*nftables.Set
	elements []nftables.SetElement
	// keeps says of a live element whether it stays, though it is none of
	// elements; nil: of a set with a timeout all stay, of others none.
	keeps func(key []byte) bool
}

type chain struct {
	*nftables.Chain
	rules []rule
}

// rule carries its reason as the comment that `nft list` shows.
type rule struct {
	comment string
	exprs   []expr.Any
	reason  abi.Reason   // why what this machine sends gets its class here; none: it does not
	by      *config.Rule // of the user's, that this one stands for; nil: none
}

func newRule(comment string, parts ...[]expr.Any) rule {
	return rule{comment: comment, exprs: slices.Concat(parts...)}
}

// because says why a packet gets its class by a rule.
func (r rule) because(reason abi.Reason) rule {
	r.reason = reason
	return r
}

// of says for which rule of the user's one stands.
func (r rule) of(by config.Rule) rule {
	r.by = &by
	return r
}

// because is that for several.
func because(reason abi.Reason, rules []rule) []rule {
	for i := range rules {
		rules[i].reason = reason
	}
	return rules
}

// userData is the comment as nft stores it.
func (r rule) userData() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, r.comment)
}

// builder turns one plan into rules.
type builder struct {
	*plan.Plan
	fresh []string // LANs attached just now
	// strict does without the look-up of routes and sockets (nft_fib, nft_socket), which a
	// kernel may lack: nothing is let in from interfaces that are waited for, nobody but by TCP
	// is answered by this machine in client mode, its addresses are those that the plan knows,
	// and what runs by Tor ends where a rule of the user's has written over its mark.
	strict bool
	// accelerates has flows of class direct put into a flowtable.
	accelerates bool
	marks       []exemptMark
	// clientMarks and direct are for what this machine itself sends, and
	// freshClient says that it has been judged since just now only.
	clientMarks []exemptMark
	direct      []directGroup
	freshClient bool
}

// exemptMark matches when (mark & mask) == value, until its rule ends; our own bits take
// no part.
type exemptMark struct {
	value, mask uint32
	until       time.Time // zero: for ever
	of          config.Rule
}

// build is pure: the same plan gives the same ruleset.
func (b builder) build() (*ruleset, error) {
	if err := b.readRules(); err != nil {
		return nil, err
	}
	if err := b.checkPorts(); err != nil {
		return nil, err
	}
	rs := &ruleset{table: table(), counters: b.counterNames(), flowtables: b.flowtables()}
	sets, err := b.sets()
	if err != nil {
		return nil, err
	}
	rs.sets = sets
	rs.chains = slices.Concat(b.untrackedChains(), b.classifyChains(), b.lateMarkChains(), b.divertChains(), b.inputChains(), b.outputChains(), b.reportChains(), b.forwardChains(), b.accelerateChains(), b.clientChains())
	for _, s := range rs.sets {
		s.Table = rs.table
	}
	for _, c := range rs.chains {
		c.Table = rs.table
	}
	return rs, nil
}

// readRules takes from the plan what rules are made of.
func (b *builder) readRules() (err error) {
	if b.marks, err = b.readMarks(b.Rules); err != nil || b.Client == nil || !b.Client.All {
		return err // what runs by Tor alone has no exclusions
	}
	if b.clientMarks, err = b.readMarks(b.Client.Rules); err != nil {
		return err
	}
	return b.readOpenings()
}

// readMarks takes the exempt marks from the plan, which has our own bits out of
// them already. One that has them nevertheless, and one of zero, which would
// exempt every packet that nobody marked, are errors of the plan.
func (b *builder) readMarks(rules config.Rules) (marks []exemptMark, err error) {
	ours := b.Mark.Mask()
	for _, r := range rules.Of(config.KindMark) {
		m := r.Mark
		if m.Value&m.Mask&ours != 0 {
			return nil, fmt.Errorf("exempt mark %#x/%#x: it uses torbpf's own bits %#x, choose another mark shift", m.Value, m.Mask, ours)
		}
		exempt := exemptMark{value: m.Value & m.Mask, mask: m.Mask &^ ours, until: r.Until, of: r}
		if exempt.value == 0 {
			return nil, fmt.Errorf("exempt mark %#x/%#x: unmarked packets match it, name a bit that must be set", m.Value, m.Mask)
		}
		marks = append(marks, exempt)
	}
	return marks, nil
}

// checkPorts refuses what would divert packets to nowhere.
func (b *builder) checkPorts() error {
	for name, port := range map[string]uint16{
		"trans_port": b.Ports.Trans, "dns_port": b.Ports.DNS, "resolver_port": b.Ports.Resolver,
	} {
		if port == 0 {
			return fmt.Errorf("%s is 0: name the port", name)
		}
	}
	return nil
}

// class returns a verdict in its place in the mark.
func (b *builder) class(v abi.Verdict) uint32 { return b.Mark.Class(uint32(v)) }

// baseChain is a chain at a hook. The policy is accept, because the hook sees
// the traffic of the whole host: each guard names what it drops. Only that of this
// machine's own packets has another.
func baseChain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int32, rules ...rule) chain {
	policy := nftables.ChainPolicyAccept
	return chain{
		Chain: &nftables.Chain{
			Name: name, Type: kind, Hooknum: hook, Policy: &policy,
			Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)),
		},
		rules: rules,
	}
}

// subChain is reached from another chain only.
func subChain(name string, rules ...rule) chain {
	return chain{Chain: &nftables.Chain{Name: name}, rules: rules}
}
