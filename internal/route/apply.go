package route

import (
	"errors"
	"slices"

	"github.com/torbpf/torbpf/internal/plan"
)

// Apply makes our ip rules, and the route that some lead to, those of the plan, in both families. What is right
// already is not touched, and the missing are added before any is deleted: at no
// instant is a LAN of both the old and the new plan without its rules. After an
// error the rules that are there stay; they can only block.
func Apply(p *plan.Plan) error {
	for _, family := range families {
		if err := applyFamily(p, family); err != nil {
			return err
		}
	}
	return nil
}

func applyFamily(p *plan.Plan, family uint8) error {
	present, supported, err := listRules(family)
	if err != nil || !supported {
		return err
	}
	if p.TProxy { // before what leads there
		if err := addRoute(family); err != nil {
			return err
		}
	}
	rules := wanted(p, family)
	sound := map[rule]bool{}
	var stale []installed
	for _, r := range present {
		if r.altered || sound[r.rule] || !slices.Contains(rules, r.rule) {
			stale = append(stale, r)
			continue
		}
		sound[r.rule] = true
	}
	for _, r := range rules {
		if sound[r] {
			continue
		}
		if err := addRule(r); err != nil {
			return err
		}
		sound[r] = true // two exemptions may need the same rule
	}
	for _, r := range stale {
		if err := deleteRule(r); err != nil {
			return err
		}
	}
	if p.TProxy {
		return nil
	}
	return removeRoutes(family)
}

// Remove deletes all our rules and routes of both families, whatever plan they are from.
// All are tried.
func Remove() error {
	var errs []error
	for _, family := range families {
		present, supported, err := listRules(family)
		errs = append(errs, err)
		for _, r := range present {
			errs = append(errs, deleteRule(r))
		}
		if supported {
			errs = append(errs, removeRoutes(family))
		}
	}
	return errors.Join(errs...)
}

// Present returns the rules and routes of the plan that are missing or of no effect because
// their interface is, each as the command that would add it.
func Present(p *plan.Plan) (missing []string, err error) {
	for _, family := range families {
		present, supported, err := listRules(family)
		if err != nil {
			return nil, err
		}
		if !supported {
			continue
		}
		sound := map[rule]bool{}
		for _, r := range present {
			// One that is waited for is not there, by definition.
			if !r.altered && (!r.detached || slices.Contains(p.Waiting, r.iif)) {
				sound[r.rule] = true
			}
		}
		for _, r := range wanted(p, family) {
			if !sound[r] {
				missing = append(missing, r.String())
			}
		}
		if !p.TProxy || !hasLoopback(family) {
			continue
		}
		there, err := hasRoute(family)
		if err != nil {
			return nil, err
		}
		if !there {
			missing = append(missing, routeText(family))
		}
	}
	return missing, nil
}
