package loader

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// identityMaps are those of bpf/identity.h: the programs of client mode write beside a
// socket by which entry it is direct, and the uplink guards look there again.
var identityMaps = []string{abi.DatapathMapClientUsers, abi.DatapathMapClientCgroups, abi.DatapathMapClientPrograms, abi.DatapathMapClientSockets}

// fillIdentities writes whose packets of this machine's own go direct, or are Tor's.
func fillIdentities(maps map[string]*ebpf.Map, p *plan.Plan) error {
	if p.Client == nil {
		return nil
	}
	for who, rule := range identityRules(p.Client.Identities) {
		if who == (abi.DatapathIdentity{}) {
			return errors.New("write a rule for who sends: it names nobody")
		}
		name, key := identityEntry(who)
		if err := maps[name].Put(key, rule); err != nil {
			return fmt.Errorf("write %v to map %s: %w", key, name, err)
		}
	}
	return nil
}

// identityRules are the entries of the maps of client mode, by whom they are about.
func identityRules(identities []plan.Identity) map[abi.DatapathIdentity]abi.DatapathRule {
	rules := make(map[abi.DatapathIdentity]abi.DatapathRule)
	for _, i := range identities {
		rule := abi.DatapathRule{UntilNs: uint64(i.Ends), Policy: abi.PolicyOf(i.Policy), Id: uint32(i.Rule)}
		if i.ThenTor {
			rule.Then, rule.ThenUntilNs = abi.PolicyTor, cmp.Or(uint64(i.ThenEnds), abi.ForEver)
		}
		who := identityOf(i)
		if old, known := rules[who]; !known || comesBefore(rule, old) {
			rules[who] = rule
		}
	}
	return rules
}

// identityOf is whom an identity means, as the programs have it; nobody for another kind.
func identityOf(i plan.Identity) abi.DatapathIdentity {
	switch i.Kind {
	case config.KindUser:
		return abi.DatapathIdentity{Kind: abi.IdentityUser, Number: uint64(i.User)}
	case config.KindCgroup:
		return abi.DatapathIdentity{Kind: abi.IdentityCgroup, Number: i.Cgroup}
	case config.KindProgram:
		return abi.DatapathIdentity{Kind: abi.IdentityProgram, Number: i.Program.Inode, Dev: kernelDevice(i.Program)}
	}
	return abi.DatapathIdentity{}
}

// identityEntry is identity_policy() of bpf/identity.h: the map, and the key there.
func identityEntry(who abi.DatapathIdentity) (name string, key any) {
	switch who.Kind {
	case abi.IdentityUser:
		return abi.DatapathMapClientUsers, uint32(who.Number)
	case abi.IdentityCgroup:
		return abi.DatapathMapClientCgroups, who.Number
	default:
		return abi.DatapathMapClientPrograms, abi.ClientProgramKey{Inode: who.Number, Dev: who.Dev}
	}
}

// kernelDevice is a device as the kernel numbers it inside (MKDEV), not as stat(2) does.
func kernelDevice(f plan.FileID) uint32 {
	const minorBits = 20
	return f.Major<<minorBits | f.Minor
}

// comesBefore tells which of two rules for the same counts: what is Tor's, then what will
// be, and then what lasts longer.
func comesBefore(a, b abi.DatapathRule) bool {
	if tor := a.Policy == abi.PolicyTor; tor != (b.Policy == abi.PolicyTor) {
		return tor
	}
	if then := a.ThenUntilNs > 0; then != (b.ThenUntilNs > 0) {
		return then
	}
	return a.UntilNs-1 > b.UntilNs-1 // 0 is for ever
}

// NoteSocket writes beside a socket, by a descriptor of this process's for it, by whose
// rule it is direct; without that the uplink guards let none out whose mark says so.
func (g *Generation) NoteSocket(descriptor int, by plan.Identity) error {
	if err := g.collection.Maps[abi.DatapathMapClientSockets].Put(int32(descriptor), identityOf(by)); err != nil {
		return fmt.Errorf("note by which rule a socket is direct: %w", err)
	}
	return nil
}

// LostSockets tells whether the generation knows of no socket by which rule it is direct,
// since the map of that was gone.
func (g *Generation) LostSockets() bool { return g.lostSockets }
