package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// ApplyConfig puts a configuration in force as Attach does what commands say: all of it
// or nothing. What commands have added stays, and is told, unless reset.
func (r *Router) ApplyConfig(ctx context.Context, cfg config.Config, reset bool, o AttachOptions) (*Result, []string, error) {
	var kept []string
	var other string
	result, err := r.attachAndWait(ctx, func(s *State) error {
		origin, err := digestOf(cfg)
		if err != nil {
			return err
		}
		s.Origin = origin
		before := s.clone()
		if err := s.follow(cfg, reset); err != nil {
			return err
		}
		if err := refuseSwapped(before, s); err != nil {
			return err
		}
		kept, other = s.kept(), s.otherResolver(cfg)
		return nil
	}, o)
	if result != nil && other != "" {
		result.Warnings = append(result.Warnings, other)
	}
	if result != nil {
		result.Warnings = append(result.Warnings, waitingWarnings(result.Plan)...)
		result.Warnings = append(result.Warnings, cautions(result.Plan.AllRules(), result.Plan)...)
	}
	if err != nil {
		return result, kept, err
	}
	if err := r.rememberGuarded(cfg); err != nil {
		result.Warnings = append(result.Warnings, fmt.Sprintf("should the configuration file break, nothing would be blocked at boot: %v", err))
	}
	return result, kept, nil
}

// refuseSwapped refuses interfaces that are not fit where others would be let out for them:
// one of their names may be mistyped.
func refuseSwapped(before, s *State) error {
	gone := slices.ContainsFunc(before.Config.Interfaces, func(name string) bool { return !slices.Contains(s.Config.Interfaces, name) })
	if !gone {
		return nil
	}
	return refuseUnfit(before, s)
}

// waitingWarnings tells what a file names that cannot be attached yet.
func waitingWarnings(p *plan.Plan) []string {
	var w []string
	for _, why := range p.Unfit {
		w = append(w, why+"; until `torbpf run`, or another apply, can attach it, it is blocked")
	}
	return w
}

// save writes what a command has changed into the drop-in for that, so that a reboot
// does not undo it. A rule of another file has to be taken out there.
func (r *Router) save(s *State, o ExcludeOptions, changes []config.Change) error {
	saved := config.SavedFile(o.File)
	err := s.writeSaved(o.File, func(before config.Config, to *config.Saved) {
		for _, c := range changes {
			to.Rules.Remove(c.Rule.Entry)
			if rule, ok := s.inForce(c); ok {
				to.Rules = append(to.Rules, toSave(rule, saved)...).Normalized()
			}
		}
		if before.Resolver != s.Config.Resolver {
			to.Resolver = s.Config.Resolver
		}
	})
	if err != nil {
		return err
	}
	if after, err := config.Load(o.File); err == nil && after.Resolver == s.Config.Resolver {
		s.Given.Resolver = netip.Addr{}
	}
	for i, rule := range s.Config.Rules {
		if slices.ContainsFunc(changes, func(c config.Change) bool { return c.Rule.Entry == rule.Entry }) {
			s.Config.Rules[i] = asSaved(rule, saved)
		}
	}
	return r.saveState(s)
}

// writeSaved changes the drop-in beside a configuration file, and takes that for the file
// in force if the one before was. What no file may hold is not saved: the next boot could
// not read it.
func (s *State) writeSaved(file string, edit func(before config.Config, to *config.Saved)) error {
	saved := config.SavedFile(file)
	before, loadErr := config.Load(file)
	synced := s.Origin != "" && loadErr == nil && fileDigest(file) == s.Origin
	text, err := os.ReadFile(saved)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read saved rules: %w", err)
	}
	if err := config.Save(saved, func(to *config.Saved) { edit(before, to) }); err != nil {
		return err
	}
	if _, err := config.Load(file); err != nil && loadErr == nil {
		return errors.Join(fmt.Errorf("%s could not be read with it: %w", file, err), putBack(saved, text))
	}
	if digest := fileDigest(file); synced && digest != "" {
		s.Origin = digest
	}
	return nil
}

// putBack makes a file what it was; nil stands for one that was not there.
func putBack(path string, text []byte) error {
	if text == nil {
		return config.RemoveFile(path)
	}
	return config.ReplaceFile(path, text)
}

// inForce is the rule that has come of a change: of what holds for ever already a life
// takes nothing away, and another rule may say the same.
func (s *State) inForce(c config.Change) (config.Rule, bool) {
	for _, rule := range s.Config.Rules {
		if rule.Entry == c.Rule.Entry {
			return rule, true
		}
	}
	return c.Rule, c.Outcome == config.Covered
}

// toSave is what to write of a rule. What another file says beneath it stays
// there.
func toSave(rule config.Rule, saved string) config.Rules {
	layers := rule.Layers()
	top := len(layers) - 1
	beneath := slices.DeleteFunc(slices.Clone(layers[:top]), func(layer config.Rule) bool { return !ofCommand(layer, saved) })
	return append(beneath, layers[top]).Stacked()
}

// ofCommand tells what commands have added, be it saved or not, from what files say.
func ofCommand(rule config.Rule, saved string) bool {
	return rule.Runtime || strings.HasPrefix(rule.Origin, saved)
}

// asSaved is a rule of which toSave was written.
func asSaved(rule config.Rule, saved string) config.Rule {
	layers := rule.Layers()
	for i := range layers {
		if i == len(layers)-1 || ofCommand(layers[i], saved) {
			layers[i].Runtime, layers[i].Origin = false, saved
		}
	}
	return layers.Stacked()[0]
}

// fileDigest tells configuration files apart; "" for one that cannot be read, which is
// for whoever puts it in force to say.
func fileDigest(file string) string {
	cfg, err := config.Load(file)
	if err != nil {
		return ""
	}
	digest, err := digestOf(cfg)
	if err != nil {
		return ""
	}
	return digest
}

// withoutDropIns leaves out the rules that files beside a configuration file hold.
func withoutDropIns(rules config.Rules, file string) config.Rules {
	return slices.DeleteFunc(rules.Layers(), func(rule config.Rule) bool {
		return filepath.Dir(rule.Origin) == config.DropIns(file)
	}).Stacked()
}
