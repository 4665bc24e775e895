package nft

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/torbpf/torbpf/internal/plan"
)

// Wiping names the chains of others, met between the programs and the redirect, in which a rule
// sets more of the mark than its own bits: what it is about has no class any more.
func (o *Others) Wiping(m plan.Mark) []string {
	var names []string
	for _, t := range o.tables {
		for _, c := range t.hooked(nftables.ChainHookPrerouting) {
			if int(*c.Priority) < plan.PriorityRedirect && t.wipes(c, m.Mask(), depth) {
				names = append(names, fmt.Sprintf("%s %s %s", familyNames[t.table.Family], t.table.Name, c.Name))
			}
		}
	}
	return names
}

// wipes tells whether a chain, or one that it leads to, has a rule that writes any of these bits.
func (rs *ruleset) wipes(c chain, ours uint32, deep int) bool {
	return slices.ContainsFunc(c.rules, func(r rule) bool {
		keeps := make(map[int]bool) // registers with a mark that has our bits as they were
		for _, e := range r.exprs {
			if writes(e, keeps, ours) {
				return true
			}
			v, ok := e.(*expr.Verdict)
			if !ok || v.Chain == "" || deep == 0 {
				continue
			}
			next := slices.IndexFunc(rs.chains, func(c chain) bool { return c.Name == v.Chain })
			if next >= 0 && rs.wipes(rs.chains[next], ours, deep-1) {
				return true
			}
		}
		return false
	})
}

// writes follows a mark through registers, and tells whether our bits end as others.
func writes(e expr.Any, keeps map[int]bool, ours uint32) bool {
	switch e := e.(type) {
	case *expr.Target:
		return ours&writtenBy(e) != 0
	case *expr.Meta:
		if e.SourceRegister {
			return e.Key == expr.MetaKeyMARK && !keeps[offset(e.Register)]
		}
		keeps[offset(e.Register)] = e.Key == expr.MetaKeyMARK
	case *expr.Bitwise:
		kept := keeps[offset(e.SourceRegister)] && len(e.Mask) == 4 && len(e.Xor) == 4
		keeps[offset(e.DestRegister)] = kept &&
			binaryutil.NativeEndian.Uint32(e.Mask)&ours == ours && binaryutil.NativeEndian.Uint32(e.Xor)&ours == 0
	default:
		_, written := registersOf(e)
		for _, r := range written {
			keeps[offset(r)] = false
		}
	}
	return false
}

// writtenBy returns which bits of the mark a target of iptables-nft's writes (xt_mark.h,
// xt_connmark.h).
func writtenBy(e *expr.Target) uint32 {
	raw, ok := e.Info.(*xt.Unknown)
	if !ok {
		return 0
	}
	word := func(n int) uint32 {
		if len(*raw) < 4*n+4 {
			return 0
		}
		return binary.NativeEndian.Uint32((*raw)[4*n:])
	}
	const restores = 2
	switch {
	case e.Name == "MARK":
		return word(1)
	case e.Name == "CONNMARK" && word(3)&0xff == restores:
		return word(2)
	}
	return 0
}
