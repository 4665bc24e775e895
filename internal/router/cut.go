package router

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/model"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/internal/sockets"
	"github.com/torbpf/torbpf/nft"
)

// cutOver ends the connections of LAN devices that the plan no longer lets out
// directly, and keeps those that came in from outside. conntrack would carry
// both on by itself: the former past Tor, the latter without the mark that
// tells them apart.
//
// The peers of what is cut are written down first: their packets would make
// the router answer with a reset, which tells on the WAN what has ended here.
func (j *job) cutOver() error {
	flows, err := route.Flows()
	if err != nil {
		return err
	}
	mayStay, err := j.flowPolicy()
	if err != nil {
		return err
	}
	cut, adopt := route.SortFlows(j.plan, flows, mayStay)
	adopt = slices.DeleteFunc(adopt, func(f plan.Flow) bool { return !j.mayAdopt(f) })
	if _, err := route.SetMarks(adopt, inboundMark(j.plan.Mark), j.plan.Mark.ClassMask()); err != nil {
		return err
	}
	if err := nft.AddCut(cut); err != nil {
		return err
	}
	left, err := j.datapath.AddCut(cut)
	if err != nil {
		return err
	}
	j.noteCut(left)
	if _, err = route.Delete(cut); err != nil {
		return err
	}
	if err := errors.Join(j.endOpening(), j.markSockets()); err != nil {
		return err
	}
	return j.askAnew(flows)
}

// endOpening ends what is being opened to the router from a LAN that has been attached now: from whatever source
// a device has asked, the router would go on answering for half a minute, by the WAN if need be.
func (j *job) endOpening() error {
	all, err := sockets.Connections()
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		at := func(l plan.LAN) bool {
			return slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(c.Local.Addr()) })
		}
		if c.Opening && slices.ContainsFunc(j.newLANs(), at) {
			errs = append(errs, sockets.Destroy(c.Local, c.Remote))
		}
	}
	return errors.Join(errs...)
}

// askAnew has conntrack judge anew what this machine asks resolvers for, from now on, by the
// classes that sockets have. What was asked by Tor before goes on so where nobody has changed a
// rule: its answer would be lost.
func (j *job) askAnew(flows []plan.Flow) error {
	redirected, straight := route.OwnQuestions(j.plan, flows)
	var anew []plan.Flow
	if j.plan.Client != nil && j.plan.Client.All {
		anew = straight
	}
	if j.before != nil && j.before.usesClient() && !j.mends {
		anew = append(anew, redirected...)
	}
	_, err := route.Delete(anew)
	return err
}

// flowPolicy judges flows as the programs judge their packets: by hardware addresses as
// the neighbour table has them, and by routes as they are now.
func (j *job) flowPolicy() (func(plan.Flow) bool, error) {
	policy := model.FromPlan(j.plan)
	if len(j.plan.Lists) > 0 {
		policy.Lists = j.lists.use
	}
	neighbours, err := host.Neighbours(j.plan.LANIndices())
	if err != nil {
		return nil, err
	}
	policy.Neighbours = neighbours
	exits := make(map[int]bool)
	for _, e := range j.plan.Exits {
		if e.Index != 0 {
			exits[e.Index] = true
		}
	}
	byName, err := j.domainFlows()
	if err != nil {
		return nil, err
	}
	return func(f plan.Flow) bool {
		if policy.MayStay(f) || byName[plan.Flow{Protocol: f.Protocol, Src: f.Src, Dst: f.Dst}] && policy.MayLeave(f) {
			return true
		}
		return len(exits) > 0 && policy.MayLeave(f) && exits[host.RouteTo(f.Dst.Addr(), f.Mark)]
	}, nil
}

// domainFlows are those that have begun by a name that is still excluded.
func (j *job) domainFlows() (map[plan.Flow]bool, error) {
	flows, err := j.datapath.DomainFlows()
	if err != nil {
		return nil, err
	}
	excluded := make(map[uint64]bool)
	for _, rule := range j.plan.Rules.Of(config.KindDomain) {
		excluded[abi.DomainKey(rule.Domain)] = true
	}
	out := make(map[plan.Flow]bool)
	for f, domain := range flows {
		out[f] = excluded[domain]
	}
	return out, nil
}

// restoreCut tells the programs who was cut off, from what nftables knows, when their
// own map of it was lost.
func (j *job) restoreCut() error {
	if !j.generation.LostCut() {
		return nil
	}
	cut, err := nft.Cut()
	if err != nil {
		return err
	}
	left, err := j.generation.AddCut(cut)
	j.noteCut(left)
	return err
}

func (j *job) noteCut(left int) {
	if left > 0 {
		j.notify(fmt.Sprintf("note: the far ends of %d cut connections are known to nftables alone: should somebody flush it within %v, the router answers them", left, plan.CutTime))
	}
}

// mayAdopt is for connections that were there before a LAN was attached, and came
// in by a port forward of the user's. Later ones have got their mark from
// nftables, which sees the interface; conntrack does not tell it, so a LAN device
// could claim any source to have a connection of its own taken for one from
// outside.
func (j *job) mayAdopt(f plan.Flow) bool {
	if !f.DNAT {
		return false
	}
	for _, l := range j.newLANs() {
		for _, p := range l.Prefixes {
			if p.Contains(f.ReplySrc.Addr().Unmap()) {
				return true
			}
		}
	}
	return false
}

// newLANs are those of the plan that were not attached to before.
func (j *job) newLANs() []plan.LAN {
	if j.before == nil {
		return j.plan.LANs
	}
	known := slices.Collect(maps.Values(j.before.Links)) // a renamed one is not new
	return slices.DeleteFunc(slices.Clone(j.plan.LANs), func(l plan.LAN) bool { return slices.Contains(known, l.Index) })
}

// freshLANs names the LANs that were not attached to before.
func (j *job) freshLANs() []string {
	return (&plan.Plan{LANs: j.newLANs()}).LANNames()
}

func inboundMark(m plan.Mark) uint32 { return m.Class(uint32(abi.VerdictInbound)) }

// forgetFlows leaves conntrack as if torbpf had not been: connections that it
// redirected end, since nobody answers at their other side any more, and its
// bits in the marks of the others are cleared.
func (r *Router) forgetFlows(s *State) error {
	flows, err := route.Flows()
	if err != nil {
		return err
	}
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	ports := []uint16{s.Config.Tor.ResolverPort}
	for i := range s.tors() {
		ports = append(ports, config.PortOf(s.Config.Tor.TransPort, i), config.PortOf(s.Config.Tor.DNSPort, i))
	}
	var redirected []plan.Flow
	for _, f := range flows {
		for _, port := range ports {
			if f.DNAT && f.ReplySrc.Port() == port && own[f.ReplySrc.Addr().Unmap()] {
				redirected = append(redirected, f)
			}
		}
	}
	if _, err := route.Delete(redirected); err != nil {
		return err
	}
	mark := plan.Mark{Shift: s.Config.MarkShift}
	_, err = route.ClearMarks(inboundMark(mark), mark.ClassMask())
	return err
}

// ownAddresses are those of the router. A forward of the user's to the same
// port of a LAN host is none of our connections.
func ownAddresses() (map[netip.Addr]bool, error) {
	facts, err := host.Read()
	if err != nil {
		return nil, fmt.Errorf("read the host: %w", err)
	}
	own := make(map[netip.Addr]bool)
	for _, a := range facts.Addrs {
		own[a.Prefix.Addr()] = true
	}
	return own, nil
}
