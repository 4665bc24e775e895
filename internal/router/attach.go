package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/tor"
)

// AttachOptions say how attach behaves; what it attaches is the Config.
type AttachOptions struct {
	NoWait   bool
	Timeout  time.Duration      // how long to wait for Tor, once all else is done
	Progress func(tor.Progress) // gets each step of Tor's bootstrap
}

// Result tells what an attach did.
type Result struct {
	Plan     *plan.Plan
	Warnings []string
	Took     time.Duration // without Tor's bootstrap

	lists []string // those of the warnings that are about lists
}

// Attach puts interfaces on Tor. edit changes the configuration that is in
// force, or the default one; the result is applied as a whole, so attaching
// again is how to refresh. A step that fails undoes those before it: then the
// host is as it was, or, where something was attached before, as it was then.
//
// Once everything stands, Attach waits for Tor to be ready. If that does not
// come about, the error says so and everything stays: the LAN is refused, not
// direct, until Tor is there or the user detaches.
func (r *Router) Attach(ctx context.Context, edit func(*config.Config), o AttachOptions) (*Result, error) {
	return r.attachAndWait(ctx, func(s *State) error {
		before := s.clone()
		edit(&s.Config)
		return refuseUnfit(before, s)
	}, o)
}

func (r *Router) attachAndWait(ctx context.Context, edit func(*State) error, o AttachOptions) (*Result, error) {
	begin := time.Now()
	result, controls, err := r.attach(ctx, edit)
	if err != nil {
		return nil, err
	}
	result.Took = time.Since(begin)
	if o.NoWait {
		return result, nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	err = r.waitReady(ctx, controls, o.Progress)
	if err != nil && !errors.Is(err, errDetached) {
		err = fmt.Errorf("%w\n%s refused until Tor is ready; `torbpf status` shows how far it is, `torbpf detach --all` lets traffic out directly again",
			err, refusedMeanwhile(result.Plan))
	}
	return result, err
}

// attach is Attach up to the point where only Tor is waited for; it returns the control
// addresses of the tors of which one has to be ready.
func (r *Router) attach(ctx context.Context, edit func(*State) error) (*Result, []string, error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()

	before, err := r.loadState()
	if err != nil {
		return nil, nil, err
	}
	s := &State{Config: config.Default()}
	if before != nil {
		s = before.clone()
	}
	if err := edit(s); err != nil {
		return nil, nil, errors.Join(err, r.forgetIfUnused(before))
	}
	result, err := r.bringLists(ctx, before, s, true, listFiles{strict: listPaths(s.Config.Rules)})
	if err != nil {
		if before != nil {
			r.forgetCopies(before.Lists) // of lists that were read, and refused
		}
		return nil, nil, errors.Join(err, r.forgetIfUnused(before))
	}
	r.Record(EventAttach, "on Tor: "+s.whom())
	return result, r.controlAddresses(s)[:s.awaited()], nil
}

// refuseUnfit refuses interfaces that are new and not fit, though the configuration
// says to wait for its own: what somebody types is there, or mistyped. What a file names
// may come later.
func refuseUnfit(before, s *State) error {
	if !s.Config.Wait {
		return nil
	}
	strict := s.clone().Config
	strict.Wait = false
	strict.Interfaces = slices.DeleteFunc(strict.Interfaces, func(name string) bool {
		return slices.Contains(before.Config.Interfaces, name)
	})
	if len(strict.Interfaces) == 0 {
		return nil
	}
	facts, err := host.Read()
	if err != nil {
		return fmt.Errorf("read the host: %w", err)
	}
	_, err = plan.Make(strict, facts)
	return err
}

// bring plans for the new state, checks all that can be checked beforehand and
// applies it; acknowledges says that whoever asks for it has seen the alarms, and before is what is in force, nil for nothing.
func (r *Router) bring(ctx context.Context, before, s *State, acknowledges bool) (*Result, error) {
	return r.bringLists(ctx, before, s, acknowledges, listFiles{})
}

// bringLists is bring that looks at the files of lists as it is told.
func (r *Router) bringLists(ctx context.Context, before, s *State, acknowledges bool, files listFiles) (*Result, error) {
	if err := refuseOtherMarks(before, s); err != nil {
		return nil, err
	}
	rules, err := last(s.Config.Rules)
	if err != nil {
		return nil, err
	}
	s.Config.Rules = rules
	s.forgetDirect()
	found, err := r.findTor(ctx, s)
	if err != nil {
		return nil, err
	}
	lists, err := r.chooseLists(s, files)
	if err != nil {
		return nil, err
	}
	defer lists.close()
	if err := r.makeGroups(s.Config); err != nil {
		return nil, err
	}
	p, err := r.makePlan(s)
	if err != nil {
		return nil, err
	}
	if err := r.checkPorts(before, s, p); err != nil {
		return nil, err
	}
	s.Planned = "" // until all steps are done, so that a kill half-way is noticed
	if err := r.saveState(s); err != nil {
		return nil, err
	}
	if err := r.apply(ctx, before, s, p, found, lists, acknowledges); err != nil {
		return nil, err
	}
	r.forgetCopies(s.Lists)
	return &Result{Plan: p, Warnings: slices.Concat(r.warnings(s, p), doctor.Strings(timeAdvice(before, p)), lists.warnings), lists: lists.warnings}, nil
}

// refuseOtherMarks refuses other bits for the marks than those in use. Until all layers have the new
// ones, some would read what others wrote by the old: the instance of one of several tors for
// the class of what may leave.
func refuseOtherMarks(before, s *State) error {
	if before == nil || before.Blocked || before.Config.MarkShift == s.Config.MarkShift {
		return nil
	}
	return config.Invalid("mark_shift: %d is in use, and cannot become %d while anything is attached: run `torbpf detach --all` first, which lets traffic out directly meanwhile, or keep --mark-shift %d",
		before.Config.MarkShift, s.Config.MarkShift, before.Config.MarkShift)
}

// checkPorts refuses ports that somebody else listens on. What torbpf itself
// has there already is no conflict, nor is the user's own tor where it is to be.
func (r *Router) checkPorts(before, s *State, p *plan.Plan) error {
	ports := []plan.Ports{{Resolver: p.Ports.Resolver}}
	if s.Config.Tor.Mode == config.TorManaged {
		for _, t := range p.Tors() {
			ports = append(ports, plan.Ports{Trans: t.Trans, DNS: t.DNS})
		}
	}
	var foreign []error
	for end := time.Now().Add(endingPatience); ; {
		conflicts, err := host.PortsInUse(ports...)
		if err != nil {
			return fmt.Errorf("check ports: %w", err)
		}
		conflicts = slices.DeleteFunc(conflicts, func(c host.Conflict) bool { return r.isOurs(before, c.PID) })
		ending := slices.ContainsFunc(conflicts, func(c host.Conflict) bool { return c.PID == 0 })
		if ending && time.Now().Before(end) {
			time.Sleep(endingPatience / 20)
			continue
		}
		for _, c := range conflicts {
			foreign = append(foreign, fmt.Errorf("%s: stop it, or choose another port with --trans-port, --dns-port or --resolver-port", c))
		}
		return errors.Join(foreign...)
	}
}

// endingPatience is how long a port that no process holds is waited for: a tor that was
// killed has its sockets until the last of its threads has ended.
const endingPatience = time.Second

// waitReady waits until one of the first tors, and its gate, say that clients are served.
func (r *Router) waitReady(ctx context.Context, controls []string, report func(tor.Progress)) error {
	if report == nil {
		report = func(tor.Progress) {}
	}
	ctx, detached := context.WithCancelCause(ctx)
	defer detached(nil)
	var dials []dial
	for _, control := range controls {
		dials = append(dials, func(ctx context.Context) (*tor.Control, error) {
			if s, err := r.loadState(); err == nil && s == nil {
				detached(errDetached)
			}
			return tor.Dial(ctx, control)
		})
	}
	err := waitBootstrap(ctx, dials, report)
	if err == nil {
		err = r.waitGate(ctx, len(controls))
	}
	if err != nil && errors.Is(context.Cause(ctx), errDetached) {
		return errDetached
	}
	return err
}

// refusedMeanwhile lists in words what waits for Tor.
func refusedMeanwhile(p *plan.Plan) string {
	switch own := p.Own(); {
	case len(p.LANs) == 0:
		return own + " stays"
	case own == "":
		return joinNames(p.LANNames()) + " and what is behind it stay"
	default:
		return fmt.Sprintf("%s and what is behind it, and %s, stay", joinNames(p.LANNames()), own)
	}
}

// errDetached ends the wait for Tor.
var errDetached = errors.New("detached by another command while this one waited for Tor")

// gateEvery is how often the gate is looked at while somebody waits for it.
const gateEvery = 20 * time.Millisecond

// waitGate waits until the sentry, too, has seen that one of the first tors is ready: until
// then clients are refused.
func (r *Router) waitGate(ctx context.Context, tors int) error {
	d, err := r.datapath(false)
	if err != nil {
		return err
	}
	tick := time.NewTicker(gateEvery)
	defer tick.Stop()
	for {
		open, err := d.GatesOpen(tors)
		if err != nil {
			return fmt.Errorf("wait for the gate to open: %w", err)
		}
		if slices.Contains(open, true) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the gate to open: %w; see %s", tor.WaitOver(context.Cause(ctx)), r.sentryLog())
		case <-tick.C:
		}
	}
}
