package top

import (
	"context"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// command is what changes that are made here are called in the audit.
const command = "top"

// make puts a device under a policy, and says what came of it.
func (c Change) make(ctx context.Context, s Source) (string, error) {
	who := []string{c.Who}
	o := router.ExcludeOptions{By: command}
	if c.Policy == config.PolicyTor {
		changes, warnings, err := s.BackToTor(ctx, who, o)
		return changeWords(changes, warnings), err
	}
	if c.Policy == config.PolicyDirect {
		o.Life = allowedFor
	}
	entries, err := s.WhoIs(who)
	if err != nil {
		return "", err
	}
	var rules config.Rules
	for _, e := range entries {
		rules = append(rules, config.Rule{Entry: e, Policy: c.Policy})
	}
	changes, warnings, err := s.Exclude(ctx, false, rules, o)
	return changeWords(changes, warnings), err
}

// changeWords tell changes as commands do, in one line.
func changeWords(changes []config.Change, warnings []string) string {
	var out []string
	for _, c := range changes {
		out = append(out, c.String())
	}
	for _, w := range warnings {
		out = append(out, "warning: "+w)
	}
	return strings.Join(out, "; ")
}
