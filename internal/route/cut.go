package route

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// SortFlows decides what becomes of connections that were there before torbpf.
//
// Cut are those of LAN hosts that would go on past Tor or hang: conntrack asks no
// redirect about a connection it knows. Spared are those that torbpf redirected
// already, those to the router and to local subnets (unless local mode "none"
// refuses them), and those of which mayStay says that they go direct: by an
// exclusion or, with local mode "reserved", to reserved space. DNS is cut whoever was
// asked, the router at its link-local address too, since DNS to it must not reach its
// own resolver.
//
// Adopted are connections begun outside that a LAN host answers: those need their
// mark for the answers to pass. There are none if the plan refuses inbound ones.
func SortFlows(p *plan.Plan, flows []plan.Flow, mayStay func(plan.Flow) bool) (cut, adopt []plan.Flow) {
	k := newKnown(p)
	for _, f := range flows {
		switch {
		case k.begunByLAN(f):
			if k.mustEnd(f) && !mayStay(f) {
				cut = append(cut, f)
			}
		case p.Inbound && k.answeredByLAN(f):
			adopt = append(adopt, f)
		}
	}
	return cut, adopt
}

// OwnQuestions are the flows by which this machine asks resolvers elsewhere by UDP: those
// that the sentry answers, and those that nobody redirected. A program that asks from one
// port for its life has the same flow for as long, which conntrack judges but once.
//
// Of the latter those are left out that begin at a port which is not anybody's: without the
// flow a late answer would be a question from outside, and what is asked next its answer.
func OwnQuestions(p *plan.Plan, flows []plan.Flow) (redirected, straight []plan.Flow) {
	k := newKnown(p)
	for _, f := range flows {
		switch {
		case !k.asksElsewhere(f):
		case k.redirected(f):
			redirected = append(redirected, f)
		case p.Client != nil && f.Src.Port() >= p.Client.Ephemeral:
			straight = append(straight, f)
		}
	}
	return redirected, straight
}

// known is a plan indexed for asking about many flows.
type known struct {
	plan  *plan.Plan
	lans  []netip.Prefix
	local []netip.Prefix // subnets whose connections are none of our business
	own   map[netip.Addr]bool
}

func newKnown(p *plan.Plan) *known {
	k := &known{plan: p, lans: p.LANPrefixes(), own: make(map[netip.Addr]bool, len(p.LocalAddrs))}
	for _, a := range p.LocalAddrs {
		k.own[a] = true
	}
	if p.LocalMode != config.LocalNone {
		for _, s := range p.Local {
			k.local = append(k.local, s.Prefix)
		}
	}
	return k
}

// begunByLAN is false for the router's own connections, though its address lies
// in the LAN's prefix.
func (k *known) begunByLAN(f plan.Flow) bool {
	src := f.Src.Addr()
	return contains(k.lans, src) && !k.own[src]
}

// answeredByLAN asks for who answers, which after a port forward is not who was
// asked.
func (k *known) answeredByLAN(f plan.Flow) bool {
	src, answers := f.Src.Addr(), f.ReplySrc.Addr()
	return !k.own[src] && contains(k.lans, answers) && !k.own[answers]
}

// asksElsewhere is for this machine's own questions by UDP, but for those that do not leave it.
func (k *known) asksElsewhere(f plan.Flow) bool {
	src, dst := f.Src.Addr(), f.Dst.Addr()
	return f.Protocol == unix.IPPROTO_UDP && f.Dst.Port() == config.PortDNS &&
		k.own[src] && !src.IsLoopback() && !k.own[dst] && !dst.IsLoopback()
}

func (k *known) mustEnd(f plan.Flow) bool {
	switch dst := f.Dst.Addr(); {
	case k.redirected(f):
		return false
	case f.Dst.Port() == config.PortDNS:
		return true
	case dst.IsMulticast(), dst.Is6() && dst.IsLinkLocalUnicast():
		return false
	default:
		return !k.own[dst] && !contains(k.local, dst)
	}
}

// redirected reports whether tor or the sentry answers.
func (k *known) redirected(f plan.Flow) bool {
	answers := f.ReplySrc.Addr()
	if !k.own[answers] && !answers.IsLoopback() {
		return false
	}
	return k.plan.IsPort(f.ReplySrc.Port())
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
