package router

import (
	"errors"
	"fmt"
	"strings"

	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/nft"
)

// What is in a flowtable passes by all rules but the programs at the interfaces, and answers pass
// by these as well. So it is taken away before anything of the policy changes, and comes back when
// what the new one does not let out has been deleted from conntrack.

// decelerate takes the flowtable away, for the time of a job that may change who judges.
func (j *job) decelerate() error {
	if !j.does(stepFlows) {
		return nil
	}
	return nft.Decelerate()
}

// accelerate puts it in place, if it is wanted and nothing is in its way. It is for speed alone: a
// kernel without it has the rest all the same.
func (j *job) accelerate() error {
	if !j.plan.Flowtable {
		return nil
	}
	why, err := inFlowtable(j.plan)
	if err != nil || len(why) > 0 {
		return err
	}
	j.state.NoFast = ""
	err = nft.Accelerate(j.plan)
	if errors.Is(err, kernel.ErrMissing) {
		j.state.NoFast = err.Error()
		j.notify("note: no flowtable, everything goes the slow way: " + err.Error())
		return nil
	}
	return err
}

// inFlowtable reads what is in the way of a flowtable now.
func inFlowtable(p *plan.Plan) ([]string, error) {
	h, err := host.ReadFast()
	if err != nil {
		return nil, fmt.Errorf("read what may be in the way of a flowtable: %w", err)
	}
	return p.InFlowtable(h), nil
}

// inFlowtable is that for the log: Mend acts upon it.
func (r *Router) inFlowtable(changed bool, p *plan.Plan) (why []string, err error) {
	if changed {
		r.fast.why, err = inFlowtable(p)
	}
	return r.fast.why, err
}

// flowtable finds that it is missing, or there though something is in its way.
func (f *findings) flowtable(s *State, p *plan.Plan) error {
	is, err := nft.Accelerates()
	if err != nil {
		return err
	}
	wanted, why := p.Flowtable && s.NoFast == "", []string(nil)
	if wanted {
		if why, err = inFlowtable(p); err != nil {
			return err
		}
	}
	switch {
	case is && !wanted:
		f.add(stepNFT, "nftables: a flowtable is there that nobody has asked for")
	case is && len(why) > 0:
		f.add(stepNFT, "nftables: the flowtable has to go: %s", strings.Join(why, "; "))
	case !is && wanted && len(why) == 0:
		f.add(stepNFT, "nftables: the flowtable is gone: what is direct goes the slow way")
	}
	return nil
}

// readFlowtable says whether there is one, and why not.
func (f *FastStatus) readFlowtable(p *plan.Plan, inForce *State) (err error) {
	if inForce.NoFast != "" {
		f.Off = append(f.Off, inForce.NoFast)
		return nil
	}
	if f.Active, err = nft.Accelerates(); err != nil {
		return err
	}
	if f.Active {
		f.Flows = p.FlowDevices()
	}
	why, err := inFlowtable(p)
	if err != nil {
		return err
	}
	if f.Off = append(f.Off, why...); !f.Active && len(why) == 0 {
		f.Off = append(f.Off, "it is gone: torbpf attach puts it back, as torbpf run does by itself")
	}
	return nil
}

// flowtableAdvice tells of those of others, which forward what a LAN sends past most of what guards it.
func flowtableAdvice(s *State, p *plan.Plan) []doctor.Advice {
	if len(p.LANs) == 0 {
		return nil
	}
	names, err := nft.Flowtables()
	if err != nil {
		return []doctor.Advice{doctor.Advise(fmt.Sprintf("whether nftables has a flowtable could not be read: %v", err))}
	}
	return doctor.Flowtables(names, s.Config.Rules.OfLANs().OpensAny())
}
