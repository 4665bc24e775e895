package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// ExcludeOptions say how rules are changed.
type ExcludeOptions struct {
	Force bool // allow what would let everything out
	// Forwarding turns the kernel's forwarding on where it is off: Tor needs
	// none, but what goes direct does. Detach turns it off again.
	Forwarding bool
	Life       time.Duration // of the rules that are added; 0: for ever
	By         string        // the command, as the audit has it
	Resolver   netip.Addr    // for excluded names; invalid: as it is
	Save       bool          // write it down beside File, so that a reboot does not undo it
	File       string        // the configuration file
	Devices    bool          // the rules are for devices: which of those nobody knows is told
}

// Exclude adds rules, or removes those of their entries, all at once: one that cannot be
// taken leaves everything as it was. Connections that were direct and may be no longer
// are cut.
func (r *Router) Exclude(ctx context.Context, remove bool, rules config.Rules, o ExcludeOptions) ([]config.Change, []string, error) {
	if err := requireRoot(); err != nil {
		return nil, nil, err
	}
	rules, err := given(rules, o)
	if err != nil {
		return nil, nil, err
	}
	for attempt := 1; ; attempt++ {
		changes, warnings, err := r.exclude(ctx, remove, rules, o, attempt <= readsAhead)
		if !errors.Is(err, errListsMoved) {
			return changes, warnings, err
		}
	}
}

// exclude is one attempt of Exclude. ahead ends it with errListsMoved, and nothing changed,
// where lists would have to be read under the lock.
func (r *Router) exclude(ctx context.Context, remove bool, rules config.Rules, o ExcludeOptions, ahead bool) ([]config.Change, []string, error) {
	files, err := r.readAhead(remove, rules, o)
	files.ahead = ahead
	if err != nil {
		return nil, nil, err
	}
	defer files.read.close()
	return r.change(ctx, remove, files, o, func(s *State) ([]config.Change, error) {
		return edit(&s.Config.Rules, remove, rules, o)
	})
}

// change edits the rules in force under the lock. closes says that nothing is opened by it.
func (r *Router) change(ctx context.Context, closes bool, files listFiles, o ExcludeOptions, edit func(*State) ([]config.Change, error)) (_ []config.Change, _ []string, err error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	before, err := r.attached()
	if err != nil {
		return nil, nil, errors.Join(err, r.forgetIfUnused(before))
	}
	inForce := before.Lists
	defer func() {
		if err != nil && !errors.Is(err, errListsMoved) {
			r.forgetCopies(inForce) // of lists that were read, and refused
		}
	}()
	s := before.clone()
	changes, err := edit(s)
	if err != nil {
		return changes, nil, err
	}
	if o.Resolver.IsValid() {
		s.Config.Resolver, s.Given.Resolver = o.Resolver, o.Resolver
	}
	if err := r.insist(s, o.Force); err != nil {
		return nil, nil, err
	}
	result, err := r.bringLists(ctx, before, s, false, files)
	if err != nil {
		return nil, nil, err
	}
	inForce = s.Lists
	r.auditChanges(changes, o.By)
	if o.Save {
		if err := r.save(s, o, changes); err != nil {
			return changes, nil, fmt.Errorf("the rules are in force, but not saved: %w", err)
		}
	}
	if closes {
		return changes, append(comesBack(changes, o.File, o.Save), result.lists...), nil
	}
	if o.Forwarding {
		if err := r.enableForwarding(s, result.Plan); err != nil {
			return changes, nil, fmt.Errorf("the rules are in force, but forwarding is not: %w", err)
		}
	}
	return changes, append(r.changeWarnings(s, result.Plan, changes, o), result.lists...), nil
}

// changeWarnings are those about what a command has just let out.
func (r *Router) changeWarnings(s *State, p *plan.Plan, changes []config.Change, o ExcludeOptions) []string {
	var changed config.Rules
	for _, c := range changes {
		if c.Outcome == config.Added || c.Outcome == config.Changed {
			changed = append(changed, c.Rule)
		}
	}
	w := cautions(changed, p)
	if o.Devices {
		w = append(w, r.notThere(changed)...)
	}
	if !o.Save {
		w = append(w, staysSaved(changes, o.File)...)
	} else {
		w = append(w, unread(o.File)...)
	}
	if o.Resolver.IsValid() && len(s.Config.Rules.Of(config.KindDomain)) == 0 {
		w = append(w, fmt.Sprintf("the resolver %s is for excluded names, and none is excluded", o.Resolver))
	}
	if changed.OpensAny() || len(changed) == 0 {
		w = append(w, r.warnings(s, p)...)
	}
	return w
}

// insist notes that somebody wants to let everything out. That holds until it is taken
// back, and for nothing else. Without it an interface that everything is routed to is
// refused here, and so are prefixes that are to hold again when others of their entry end;
// those that hold now the configuration judges.
func (r *Router) insist(s *State, force bool) error {
	insisted := s.Config.Everything || force
	exit, err := r.widestExit(s)
	if err != nil {
		return err
	}
	if exit != "" && !insisted {
		return config.Invalid("%s, so hardly anything would be Tor's: torbpf detach switches Tor off; or insist with --force", exit)
	}
	active, _, err := s.activeRules()
	if err != nil {
		return err
	}
	all := active.Everything()
	s.Config.Everything = insisted && (exit != "" || all)
	if all && !insisted {
		judged := s.Config
		judged.Rules = active
		return judged.Validate()
	}
	return nil
}

// widestExit says which excluded interface everything is routed to, "" for none.
func (r *Router) widestExit(s *State) (string, error) {
	if len(s.Config.Rules.Of(config.KindInterface)) == 0 {
		return "", nil
	}
	asked := s.clone()
	asked.Config.Everything = true // whether prefixes may is judged later
	p, err := r.makePlan(asked)
	if err != nil {
		return "", err
	}
	widest := p.Widest
	if p.Client != nil {
		widest = slices.Concat(widest, p.Client.Widest)
	}
	if len(widest) == 0 {
		return "", nil
	}
	return widestWords(widest[0]), nil
}

func widestWords(w plan.Widest) string {
	return fmt.Sprintf("%s has the default route %s (table %d)", w.Name, w.Route.Dst, w.Route.Table)
}

// given completes rules that a command names.
func given(rules config.Rules, o ExcludeOptions) (config.Rules, error) {
	if err := rules.CheckComments(); err != nil {
		return nil, err
	}
	out := slices.Clone(rules)
	for i := range out {
		out[i].Runtime, out[i].Origin = true, o.By
		if o.Life > 0 {
			out[i].Until = time.Now().Add(o.Life).Truncate(time.Second)
		}
	}
	return last(out)
}

// last writes down when rules end, by the clock that the programs know.
func last(rules config.Rules) (config.Rules, error) {
	boot, err := kernel.BootTime()
	if err != nil {
		return nil, err
	}
	return rules.Last(time.Now(), boot), nil
}

func edit(rs *config.Rules, remove bool, rules config.Rules, o ExcludeOptions) ([]config.Change, error) {
	var changes []config.Change
	for _, rule := range rules {
		if !remove {
			changes = append(changes, rs.Add(rule))
			continue
		}
		c, err := removeSaved(rs, rule.Entry, o)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// Rules returns what is otherwise than through Tor, without what has ended.
func (r *Router) Rules() (config.Rules, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	active, _, err := s.activeRules()
	return active, err
}

// Resolver is who is asked for excluded names; invalid for nobody.
func (r *Router) Resolver() (netip.Addr, error) {
	s, err := r.attached()
	if err != nil {
		return netip.Addr{}, err
	}
	return s.Config.Resolver, nil
}

func (s *State) activeRules() (active, ended config.Rules, err error) {
	boot, err := kernel.BootTime()
	if err != nil {
		return nil, nil, err
	}
	active, ended = s.Config.Rules.Normalized().Active(time.Now(), boot)
	return active, ended, nil
}

// forgetEnded takes out of a state that is about to be written what has ended, and says
// so in the audit; of what was in force before, too, which a file may have taken out first.
func (r *Router) forgetEnded(before, s *State) error {
	active, ended, err := s.activeRules()
	if err != nil {
		return err
	}
	told := s.Ended
	if before != nil {
		_, earlier, err := before.activeRules()
		if err != nil {
			return err
		}
		told = append(slices.Clone(before.Ended), told...)
		ended = append(ended, earlier...)
	}
	s.Config.Rules = active
	for _, rule := range ended {
		if told.Ending(rule) >= 0 {
			continue
		}
		told = append(told, rule)
		r.audit("ended "+rule.Words(), rule)
		if !rule.Runtime {
			s.Ended = append(s.Ended, rule)
		}
	}
	return nil
}

const auditName = "audit.log"

// auditMax bounds the audit, and the older part of it that is put aside, each, in bytes: some ten thousand lines.
const auditMax = 1 << 20

// auditPath is a log of what went direct, for whom and how long. It outlives a reboot.
func (r *Router) auditPath() string { return filepath.Join(r.data, auditName) }

func (r *Router) auditChanges(changes []config.Change, by string) {
	for _, c := range changes {
		switch c.Outcome {
		case config.Added, config.Changed, config.Removed:
			c.Rule.Origin = by
			r.audit(c.String(), c.Rule)
		}
	}
}

// audit adds a line; a failure is told and changes nothing.
func (r *Router) audit(what string, rule config.Rule) {
	if rule.Comment != "" {
		what += fmt.Sprintf(" (%s)", rule.Comment)
	}
	if rule.Origin != "" {
		what += ", by " + rule.Origin
	}
	r.recordPolicy(what, rule)
	line := fmt.Sprintf("%s %s: %s", time.Now().Format(time.RFC3339), r.ns.Name, what)
	if err := appendLine(r.auditPath(), line); err != nil {
		r.notify(fmt.Sprintf("warning: the audit lacks a line (%s): %v", line, err))
	}
}

func appendLine(path, line string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	f, err := openLog(path, auditMax)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
