package router

import (
	"fmt"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/loader"
)

// What keeps a LAN from being forwarded when nftables is gone is a BPF program, or where the
// kernel cannot have that one, ip rules. Those cost every packet of the host more, and go on
// to do so when they are gone: so there are none where they are not needed.

// needsRules tells whether ip rules stand in for the guard of what is forwarded.
func (s *State) needsRules() bool {
	return lacks(s, loader.GuardForward4) || lacks(s, loader.GuardForward6)
}

// putRules makes the ip rules those of a plan, of which there may be none.
func (s *State) putRules(p *plan.Plan) error {
	if s.wantsRules(p) {
		return route.Apply(p)
	}
	return route.Remove()
}

// wantsRules tells whether a plan has ip rules: in the place of the guard of what is forwarded, or
// beside it.
func (s *State) wantsRules(p *plan.Plan) bool { return s.needsRules() || besideGuard(s.Config, p) }

// besideGuard tells whether ip rules are needed beside the guard of what is forwarded. They deliver here
// what is handed to tor, before those that block it if that is missing. And a LAN that was forced, though it
// has the default route, may be where a packet came from: before anything that stands at FORWARD, the
// kernel would tell the device to go past the router (ICMP redirect).
func besideGuard(cfg config.Config, p *plan.Plan) bool { return p.TProxy || cfg.Force }

// blockForward puts the layer beneath nftables in place before any other program. It has
// to hold whatever is wrong, so ip rules stand in for the guard for any reason; with the
// guards that follow, that reason is told again.
func (r *Router) blockForward(s *State, p *plan.Plan) error {
	d, err := r.datapath(s.Config.Clsact)
	guarded := false
	if err == nil {
		guarded, err = d.GuardForward(p)
	}
	if err != nil {
		r.notify(fmt.Sprintf("warning: ip rules stand in for the guard of what is forwarded: %v", err))
	}
	if guarded && !besideGuard(s.Config, p) {
		return route.Remove()
	}
	return route.Apply(p)
}
