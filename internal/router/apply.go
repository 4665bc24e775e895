package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// The names of the steps of apply, in their order.
const (
	stepTor      = "tor"
	stepRules    = "rules"
	stepGuards   = "guards"
	stepNFT      = "nft"
	stepFirewall = "firewall"
	stepPrograms = "programs"
	stepCut      = "cut"
	stepFlows    = "flowtable"
	stepSentry   = "sentry"
	stepFormer   = "former"
	stepProxy    = "proxy"
	stepHandOver = "hand-over"
	stepState    = "state"
)

// step is one part of apply.
type step struct {
	name string
	do   func(context.Context) error
}

// job is one apply under way.
type job struct {
	*Router
	before     *State // what this changes; nil when nothing was attached
	state      *State
	plan       *plan.Plan
	tor        *foundTor
	datapath   *loader.Datapath
	generation *loader.Generation
	lists      *listMaps
	attached   bool     // the LAN programs are those of generation
	only       []string // the steps of a repair; nil for all
	mends      bool     // nobody asked for it: see steps and writeState
	// acknowledges: whoever asked for it has seen what the last guards stopped.
	acknowledges bool
	stopped      uint64 // what the last guards had stopped when it began
	torErr       error  // of a repair that went on without tor
	// flows are those that conntrack knew before any step: from our table on it tracks what
	// nobody did, and takes whoever speaks first for the one who has begun.
	flows []plan.Flow
}

// steps in the order up; see the package comment. A repair leaves tor, which may take
// its time or not be had at all, to the end: until then nothing listens on its ports.
func (j *job) steps() []step {
	steps := append(j.datapathSteps(), step{stepSentry, j.startSentry}, step{stepFormer, j.endFormerTors}, step{stepProxy, j.startProxy})
	if j.mends {
		return append(steps, step{stepTor, j.tryTors}, step{stepHandOver, j.handOver}, step{stepState, j.writeState})
	}
	return slices.Concat([]step{{stepTor, j.startTors}}, steps, []step{{stepHandOver, j.handOver}, {stepState, j.writeState}})
}

// tryTors is startTors for a repair: what else there is to do is done without them.
func (j *job) tryTors(ctx context.Context) error {
	if j.torErr == nil {
		j.torErr = j.startTors(ctx)
	}
	return nil
}

// What a repair, and with it the next one and commands, waits for one tor at most.
const (
	torStarts  = 20 * time.Second
	torAnswers = 4 * time.Second // one that runs may hang; then it is asked again
)

// datapathSteps are those between tor and the sentry.
func (j *job) datapathSteps() []step {
	return []step{
		{stepGuards, j.applyGuards},
		{stepRules, j.applyRules},
		{stepNFT, func(context.Context) error { return j.applyNFT() }},
		{stepFirewall, j.checkFirewall},
		{stepPrograms, j.attachLANs},
		{stepCut, func(context.Context) error { return j.cutOver() }},
		{stepFlows, func(context.Context) error { return j.accelerate() }},
	}
}

// StepNames lists the steps of apply in order.
func StepNames() []string {
	var names []string
	for _, s := range (&job{}).steps() {
		names = append(names, s.name)
	}
	return names
}

// apply brings the host to a plan, or back to what it was.
func (r *Router) apply(ctx context.Context, before, s *State, p *plan.Plan, found *foundTor, lists *listMaps, acknowledges bool) error {
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return errors.Join(err, r.putBackState(before))
	}
	d.UseLists(lists.use)
	j := &job{Router: r, before: before, state: s, plan: p, tor: found, datapath: d, lists: lists, acknowledges: acknowledges}
	err = j.run(ctx)
	if err == nil {
		return nil
	}
	failed := s.clone()
	failed.Links = linksOf(p) // what is not among them has been without torbpf meanwhile
	undo := r.restore(context.WithoutCancel(ctx), before, failed, lists.back())
	if undo == nil {
		return err
	}
	// The state must tell of the policy that the LAN programs now follow.
	inForce := s
	if before != nil && !j.attached {
		inForce = before
	}
	return errors.Join(fmt.Errorf("%w\nundoing it: %w\nrun `torbpf attach` to repair it, or `torbpf detach --all` to remove it", err, undo), r.saveState(inForce))
}

// putBackState makes the state file tell of what is in force, before any step
// has changed that.
func (r *Router) putBackState(before *State) error {
	if before != nil {
		return r.saveState(before)
	}
	if err := os.Remove(r.statePath()); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}

func (j *job) run(ctx context.Context) error {
	defer func() {
		if j.generation != nil {
			j.generation.Close()
		}
	}()
	counters, err := j.datapath.Counters()
	if err != nil {
		return err
	}
	j.stopped = stoppedIn(counters)
	if err := j.endRedirected(); err != nil {
		return err
	}
	if j.flows, err = route.Flows(); err != nil {
		return err
	}
	if err := j.decelerate(); err != nil {
		return err
	}
	for _, s := range j.steps() {
		if !j.does(s.name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped before step %s: %w", s.name, err)
		}
		if err := s.do(ctx); err != nil {
			return err
		}
		if err := j.fail(s.name); err != nil {
			return err
		}
	}
	return nil
}

// does tells whether a step is to be taken.
func (j *job) does(step string) bool { return j.only == nil || slices.Contains(j.only, step) }

// endRedirected is for when this machine leaves Tor, and LANs stay.
func (j *job) endRedirected() error {
	if j.state.usesClient() {
		return nil
	}
	return endRedirected(j.before)
}

func (j *job) writeState(context.Context) error {
	if err := j.countStopped(); err != nil {
		return err
	}
	digest, err := planDigest(j.plan)
	if err != nil {
		return err
	}
	if j.torErr != nil && (j.only == nil || slices.Contains(j.only, stepTor)) {
		digest = "" // tor does not know of the plan yet
	}
	if err := j.forgetEnded(j.before, j.state); err != nil {
		return err
	}
	j.state.Planned, j.state.Links, j.state.Blocked = digest, linksOf(j.plan), false
	return j.saveState(j.state)
}

// countStopped sets from where on the last guards' counters are an alarm: from now on
// for whoever has seen them, or where nothing stood before; from 0 where the counters
// have begun anew. A change of the policy is none: its guards meet packets that the
// programs of the policy before have let go.
func (j *job) countStopped() error {
	counters, err := j.datapath.Counters()
	if err != nil {
		return err
	}
	stopped := stoppedIn(counters)
	switch {
	case j.acknowledges:
		j.state.Stopped = stopped
		return j.forgetAlarms()
	case j.before == nil || j.before.Blocked:
		j.state.Stopped = stopped
	case stopped < j.state.Stopped:
		j.state.Stopped = 0
	case !j.mends && stopped > j.stopped:
		j.state.Stopped += stopped - j.stopped
	}
	return nil
}

func (j *job) attachLANs(context.Context) error {
	j.attached = true // as soon as one of them may be
	err := j.generation.AttachLANs()
	defer func() { j.state.NoEarly = j.withoutEarly() }()
	if err == nil {
		return j.followFast()
	}
	if j.only == nil {
		return err
	}
	// A program that is attached already cannot be put ahead of another one as
	// well; one of a new generation can.
	fresh, loadErr := j.datapath.ApplyGuards(j.plan)
	if loadErr != nil {
		return errors.Join(err, loadErr)
	}
	j.generation.Close()
	j.generation = fresh
	if err := fresh.AttachLANs(); err != nil {
		return err
	}
	return j.followFast()
}

// withoutEarly names the LANs at which early refusal was not to be had, and why.
func (j *job) withoutEarly() map[string]string {
	out := make(map[string]string)
	for _, l := range j.plan.LANs {
		if why := j.generation.NoEarly()[l.Index]; why != "" {
			out[l.Name] = why
		}
	}
	return out
}

func (j *job) applyGuards(context.Context) error {
	g, err := j.openOrLoad()
	if err != nil {
		return err
	}
	j.generation = g
	if err := j.restoreCut(); err != nil {
		return err
	}
	if j.only != nil && g.LostSockets() {
		if err := j.markSockets(); err != nil {
			return err
		}
	}
	j.state.Lacks = g.Unsupported()
	for _, lacking := range g.Unsupported() {
		j.notify("note: this kernel has " + lacking)
	}
	return nil
}

// applyNFT writes the table. With one that was lost went who was cut off: the programs
// know it as well.
func (j *job) applyNFT() error {
	there, err := nft.Present()
	if err != nil {
		return err
	}
	if err := j.beginCounting(); err != nil {
		return err
	}
	if err := nft.Apply(j.plan, j.freshLANs()...); err != nil {
		return err
	}
	// Once more: what has begun since is carried on by conntrack until here.
	if err := j.endRedirected(); err != nil || there {
		return err
	}
	cut, err := j.datapath.Cut()
	if err != nil {
		return err
	}
	return nft.AddCut(cut)
}

// openOrLoad has a repair use the programs that are pinned, as far as they are.
func (j *job) openOrLoad() (*loader.Generation, error) {
	if j.only != nil {
		if g, err := j.datapath.Reopen(j.plan); err == nil {
			return g, nil
		}
	}
	return j.datapath.ApplyGuards(j.plan)
}

// restore brings the host back from a failed state to the one before, nil for
// nothing, with the maps of lists that were in use then.
func (r *Router) restore(ctx context.Context, before, failed *State, lists *listMaps) error {
	if before == nil {
		return r.removeAll(ctx, failed)
	}
	if before.Blocked {
		return r.restoreBlock(before, failed)
	}
	s := before.clone()
	s.Sentry, s.Proxy, s.Sysctls = failed.Sentry, failed.Proxy, maps.Clone(failed.Sysctls)
	found, err := r.findTor(ctx, s)
	if err != nil {
		return err
	}
	p, err := r.makePlan(s)
	if err != nil {
		return err
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return err
	}
	// The failure that a test asked for must not meet the way back as well.
	quiet := *r
	quiet.fail = func(string) error { return nil }
	d.UseLists(lists.use)
	j := &job{Router: &quiet, before: failed, state: s, plan: p, tor: found, datapath: d, lists: lists}
	return j.run(ctx)
}
