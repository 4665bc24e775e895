package router

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// fastPermit is how long the fast path may be used after somebody has looked whether it may:
// when `torbpf run` dies or hangs, everything goes the slow way.
const fastPermit = 2 * time.Second

// fastWatch is what KeepFast remembers.
type fastWatch struct {
	since      time.Duration // what flows have proven before does not count
	flowtables []string
	why        []string // it was off
}

// FastStatus is the path past the kernel's forwarding.
type FastStatus struct {
	Mode   config.FastPath `json:"mode"`
	Active bool            `json:"active"`
	Off    []string        `json:"off"`     // why it is not, where that was asked for
	Frames []string        `json:"frames"`  // interfaces between which UDP goes before it is a packet (XDP)
	Flows  []string        `json:"devices"` // interfaces of the flowtable, which does not count packets
	Out    uint64          `json:"packets_out"`
	In     uint64          `json:"packets_in"`
}

// KeepFast lets the fast path be used for two seconds more, if nothing is in its way, and
// ends it at once if something is; the reasons are returned. changed says that something may
// have changed on the host since the last call: then flows have to prove anew what becomes of
// them. It goes by what Mend has seen last.
func (r *Router) KeepFast(changed bool) ([]string, error) {
	s, p := r.seen.state, r.seen.plan
	if s == nil {
		return r.fast.why, nil // until Mend has looked again
	}
	if p.Flowtable && !s.Blocked && s.NoFast == "" {
		return r.inFlowtable(changed, p)
	}
	if r.fast.why = nil; s.Blocked || !p.Fast || s.NoFast != "" {
		return nil, nil
	}
	if changed || r.fast.since == 0 {
		now, err := kernel.Monotonic()
		if err != nil {
			return nil, err
		}
		r.fast.since = 0 // should the next fail, it is asked again, and the permit runs out
		if r.fast.flowtables, err = nft.Flowtables(); err != nil {
			return nil, err
		}
		r.fast.since = now
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return nil, err
	}
	h, err := fastHost(d, p, r.fast.flowtables)
	why := p.InFastPath(h)
	r.fast.why = why
	lasts := fastPermit
	if err != nil || len(why) > 0 {
		lasts = 0
	}
	ports, portsErr := framePorts(d, p, h)
	err = errors.Join(err, portsErr)
	if permitErr := d.PermitFast(r.fast.since, lasts, ports...); !errors.Is(permitErr, os.ErrNotExist) { // or it is being detached
		err = errors.Join(err, permitErr)
	}
	return why, err
}

// framePorts are the interfaces between which UDP may go as frames now.
func framePorts(d *loader.Datapath, p *plan.Plan, h plan.FastHost) ([]plan.Link, error) {
	var ports []plan.Link
	for _, l := range p.FramePorts(h) {
		takes, err := d.TakesFrames(l.Index)
		if err != nil {
			return nil, err
		}
		sends, err := host.SendsFrames(l.Index)
		if err != nil {
			return nil, err
		}
		if takes && sends {
			ports = append(ports, l)
		}
	}
	return ports, nil
}

// fastHost reads what may be in the way of the fast path now.
func fastHost(d *loader.Datapath, p *plan.Plan, flowtables []string) (plan.FastHost, error) {
	h, err := host.ReadFast()
	if err != nil {
		return h, fmt.Errorf("read what may be in the way of the fast path: %w", err)
	}
	h.Flowtables = flowtables
	var indices []int
	for _, l := range p.LANs {
		indices = append(indices, l.Index)
	}
	for _, u := range p.Uplinks {
		indices = append(indices, u.Index)
	}
	for _, index := range indices {
		strangers, err := d.Strangers(index)
		if err != nil {
			return h, err
		}
		for _, what := range strangers {
			h.Programs = append(h.Programs, plan.Program{Index: index, What: what})
		}
	}
	return h, nil
}

// readFast says whether there is a fast path, and why not.
func (s *Status) readFast(d *loader.Datapath, p *plan.Plan, inForce *State) error {
	s.Fast = FastStatus{Mode: inForce.Config.FastPath, Off: []string{}, Frames: []string{}, Flows: []string{}}
	if p.Flowtable {
		return s.Fast.readFlowtable(p, inForce)
	}
	if !p.Fast {
		return nil
	}
	now, err := d.Fast()
	if err != nil {
		return err
	}
	s.Fast.Active, s.Fast.Out, s.Fast.In = now.Permitted, now.Out, now.In
	if inForce.NoFast != "" {
		s.Fast.Off = append(s.Fast.Off, inForce.NoFast)
		return nil
	}
	flowtables, err := nft.Flowtables()
	if err != nil {
		return err
	}
	h, err := fastHost(d, p, flowtables)
	if err != nil {
		return err
	}
	why := p.InFastPath(h)
	s.Fast.Off = append(s.Fast.Off, why...)
	ports, err := framePorts(d, p, h)
	if err != nil {
		return err
	}
	for _, l := range ports {
		s.Fast.Frames = append(s.Fast.Frames, l.Name)
	}
	if !now.Permitted && len(why) == 0 {
		s.Fast.Off = append(s.Fast.Off, "torbpf run does not run, which would see it when something gets in its way: torbpf enable")
	}
	return nil
}

// fastPath finds programs of the fast path that are gone.
func (f *findings) fastPath(s *State, p *plan.Plan, d *loader.Datapath) error {
	if !p.Fast || s.NoFast != "" {
		return nil
	}
	now, err := d.Fast()
	if err == nil && !now.Loaded {
		f.add(stepAll, "the fast path is gone: what is direct goes the slow way")
	}
	return err
}

// followFast says of the generation in force whether it has a fast path, and sets what
// conntrack has to know of it: long connections would end as invalid, because it has not seen
// their segments. The old value is saved before, so detach can restore it.
func (j *job) followFast() error {
	if why := j.generation.NoFast(); why != "" || j.generation.HasFast() || !j.plan.Fast {
		j.state.NoFast = why
	}
	if j.plan.Fast && j.state.NoFast == "" {
		return j.setLiberal()
	}
	return j.restoreLiberal()
}

func (j *job) setLiberal() error {
	old, err := host.Sysctl(host.ConntrackLiberal)
	if err != nil || old != "0" {
		return err
	}
	if _, recorded := j.state.Sysctls[host.ConntrackLiberal]; !recorded {
		j.state.Sysctls = maps.Clone(j.state.Sysctls)
		if j.state.Sysctls == nil {
			j.state.Sysctls = make(map[string]string)
		}
		j.state.Sysctls[host.ConntrackLiberal] = old
		if err := j.saveState(j.state); err != nil {
			return err
		}
	}
	return host.SetSysctl(host.ConntrackLiberal, "1")
}

func (j *job) restoreLiberal() error {
	old, recorded := j.state.Sysctls[host.ConntrackLiberal]
	if !recorded {
		return nil
	}
	delete(j.state.Sysctls, host.ConntrackLiberal)
	return host.Restore(map[string]string{host.ConntrackLiberal: old})
}
