package router

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/nft"
	"github.com/torbpf/torbpf/tor"
)

// ErrTakenOver says that another version of torbpf has attached since this one did. This one
// would undo what it does not know.
var ErrTakenOver = errors.New("another version of torbpf has taken over")

// Mended is what one call of Mend found and did.
type Mended struct {
	Attached []string      // interfaces that are on Tor, and "this machine"
	Waiting  []string      // interfaces that are blocked until they are there
	Found    []string      // what was or is wrong, in words; none for a sound state
	Mended   bool          // something was done about it, or tried
	Took     time.Duration // what putting it right took
}

// Mend looks once at all that the state in force needs, and puts right what is
// wrong: a part that is gone alone, all of it after the host has changed. While
// it does, and if it cannot, what is wrong blocks. may is asked beforehand, with
// what was found: a caller who says no has it left for a later call.
//
// Unless it is to look at all, it goes by the plan of the call before, and looks only
// at what the kernel announces to nobody: programs and processes.
func (r *Router) Mend(ctx context.Context, all bool, may func(found []string) bool) (Mended, error) {
	if !all && r.glance() {
		return r.seen.mended, nil
	}
	d, m, err := r.diagnose()
	r.moveQuestions(d.state, d.plan)
	r.seen = seen{}
	if errors.Is(err, ErrTakenOver) {
		return m, err
	}
	if err == nil && !m.Mended {
		r.seen = seen{state: d.state, plan: d.plan, mended: m}
	}
	asked := m.Found
	if err != nil {
		asked = []string{err.Error()}
	}
	if (err == nil && !m.Mended) || !may(asked) {
		m.Mended = false
		return m, nil
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		if s, loadErr := r.loadState(); loadErr == nil && s == nil {
			return Mended{}, nil // what looked broken was on its way out
		}
		return m, err
	}
	defer unlock()
	begin := time.Now()
	m, err = r.mend(ctx)
	m.Took = time.Since(begin)
	return m, err
}

// diagnosis is what there is to mend.
type diagnosis struct {
	state *State // nil: nothing is in force
	plan  *plan.Plan
	found findings
	all   bool // what was only blocked can be attached now
}

// seen is what was sound when everything was looked at last.
type seen struct {
	state  *State // nil: nothing was
	plan   *plan.Plan
	mended Mended
}

// glance tells whether what was sound is so still, as far as it is looked at.
func (r *Router) glance() bool {
	if r.seen.state == nil || r.seen.state.Blocked {
		return false
	}
	s, err := r.loadState()
	if err != nil || !reflect.DeepEqual(s, r.seen.state) {
		return false
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return false
	}
	r.moveQuestions(s, r.seen.plan)
	var f findings
	err = errors.Join(f.guards(s, r.seen.plan, d), f.attachments(s, r.seen.plan, d), r.processes(&f, s), f.handsOver(r.seen.plan, d))
	return err == nil && slices.Equal(f.texts(), r.seen.mended.Found)
}

// diagnose looks; the Mended says what mend would do.
func (r *Router) diagnose() (diagnosis, Mended, error) {
	s, p, found, err := r.look()
	d := diagnosis{state: s, plan: p, found: found}
	m := Mended{Found: found.texts(), Mended: found.mendable()}
	if s != nil && s.Version == r.version {
		r.own = true
	} else if s != nil && r.own {
		return d, m, fmt.Errorf("%w: torbpf %s has attached, and this is %s; start torbpf run anew", ErrTakenOver, s.Version, r.version)
	}
	if p == nil {
		return d, m, err
	}
	m.Waiting = append(m.Waiting, p.Waiting...)
	m.Waiting = append(m.Waiting, p.Patterns...)
	whom := withClient(s.Config, p.LANNames()) // this machine is always there to be attached
	if !s.Blocked {
		m.Attached = whom
	}
	if s.Blocked && len(whom) > 0 {
		d.all, m.Mended = true, true
		m.Found = append(m.Found, "to be attached now: "+joinNames(whom))
	}
	return d, m, err
}

// mend looks again, under the lock, since a command may have come first.
func (r *Router) mend(ctx context.Context) (Mended, error) {
	d, m, err := r.diagnose()
	switch {
	case errors.Is(err, ErrTakenOver):
		return m, err
	case d.state == nil:
		return m, errors.Join(err, r.forgetIfUnused(nil))
	case err != nil:
		return m, errors.Join(err, r.holdBlocked(d.state))
	case !m.Mended:
		return m, nil
	case d.all:
		return m, r.rebring(ctx, d.state, nil)
	case d.state.Blocked:
		return m, r.fortify(d.state)
	}
	return m, r.rebring(ctx, d.state, d.found.steps())
}

// fortify adds to the block what takes knowing the host: the guards at the uplinks and
// at local delivery, for the interfaces that are there.
func (r *Router) fortify(before *State) error {
	s := before.clone()
	p, err := r.makePlan(s)
	if err != nil {
		return err
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return err
	}
	if err := nft.Apply(p); err != nil {
		return err
	}
	g, err := d.ApplyGuards(p)
	if err != nil {
		return err
	}
	defer g.Close()
	s.Lacks = g.Unsupported()
	if err := s.putRules(p); err != nil {
		return err
	}
	if s.Planned, err = planDigest(p); err != nil {
		return err
	}
	return r.saveState(s)
}

// holdBlocked sees to it that nothing passes while no plan can be made: where our
// table is as anybody left it who did not empty it, everything stays, and elsewhere
// the block comes.
func (r *Router) holdBlocked(s *State) error {
	p := plan.Block(s.Config)
	if !s.Blocked {
		if whole, err := nft.Guards(); err != nil || whole {
			return err
		}
	}
	return errors.Join(nft.Apply(p), r.blockForward(s, p))
}

// rebring applies the state in force once more, or only some steps of it; all if the
// host is not the one that they were found for. What the last guards have stopped
// meanwhile stays an alarm. Without tor all else is done.
func (r *Router) rebring(ctx context.Context, before *State, only []string) error {
	// The first attach does not wait for lists: nothing of theirs is direct yet.
	return r.rebringLists(ctx, before, only, listFiles{keep: true, later: before.Blocked})
}

// rebringLists is rebring that looks at the files of lists as it is told.
func (r *Router) rebringLists(ctx context.Context, before *State, only []string, files listFiles) error {
	s := before.clone()
	found, torErr := r.findTor(ctx, s)
	if torErr != nil {
		found = &foundTor{}
	}
	lists, err := r.chooseLists(s, files)
	if err != nil {
		return errors.Join(torErr, err)
	}
	defer lists.close()
	if err := r.makeGroups(s.Config); err != nil {
		return errors.Join(torErr, err)
	}
	p, err := r.makePlan(s)
	if err != nil {
		return errors.Join(torErr, err)
	}
	if digest, err := planDigest(p); err != nil || digest != before.Planned {
		only = nil
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return err
	}
	d.UseLists(lists.use)
	j := &job{Router: r, before: before, state: s, plan: p, tor: found, datapath: d, lists: lists, only: only, mends: true, torErr: torErr}
	err = j.run(ctx)
	if err != nil && before.Blocked {
		return errors.Join(err, r.restoreBlock(before, s))
	}
	if err == nil {
		r.forgetCopies(s.Lists)
	}
	return errors.Join(err, j.torErr)
}

// RestartTor ends a managed tor that hangs and starts it anew. Until it is bootstrapped its
// clients use another one, or are refused where it is alone.
func (r *Router) RestartTor(ctx context.Context, instance int) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := r.loadState()
	if err != nil || !managesTor(s) {
		return err
	}
	d, err := r.findDaemon(instance)
	if err != nil || d == nil || !hangs(ctx, d) {
		return err // a command was faster
	}
	if err := d.Stop(ctx); err != nil {
		return err
	}
	return r.rebring(ctx, s, []string{stepTor})
}

// HungTors returns the instances of the tors that are ours to restart, are there and do not
// answer their control connection within a few seconds. One that is gone is for Mend.
func (r *Router) HungTors(ctx context.Context) ([]int, error) {
	s, err := r.loadState()
	if err != nil || !managesTor(s) {
		return nil, err
	}
	var hung []int
	for i := range s.tors() {
		d, err := r.findDaemon(i)
		if err != nil {
			return nil, err
		}
		if d != nil && hangs(ctx, d) {
			hung = append(hung, i)
		}
	}
	return hung, nil
}

// hangs tells whether a tor does not answer within a few seconds.
func hangs(ctx context.Context, d *tor.Daemon) bool {
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	c, err := d.Dial(ctx)
	if err != nil {
		return true
	}
	defer c.Close()
	_, err = c.Version(ctx)
	return err != nil
}

// managesTor tells whether a state has a tor that torbpf starts and stops.
func managesTor(s *State) bool {
	return s != nil && !s.Blocked && s.Config.Tor.Mode == config.TorManaged
}
