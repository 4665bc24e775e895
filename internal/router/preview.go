package router

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// Preview is what a configuration would do to this host.
type Preview struct {
	Plan  *plan.Plan
	NFT   string // the table as nft lists it
	Rules string // the ip rules of both families as ip lists them, where there are to be any
	Torrc string // of a managed tor; "" for the system's

	Changes []string // of interfaces and rules, "+ " or "- " before each
	Kept    []string // what commands have added, which stays
	Notes   []string // what apply would warn of
}

// Preview plans for this host as it is now and changes nothing of it: the table and the
// rules are made in a network namespace of their own, which goes with the call. What commands
// have added is part of it as it is for ApplyConfig, and what that refuses is refused.
func (r *Router) Preview(ctx context.Context, cfg config.Config, reset bool) (*Preview, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	loaded, err := r.loadState()
	if err != nil {
		return nil, err
	}
	before := &State{Config: config.Default()}
	if loaded != nil && !loaded.Blocked {
		before = loaded
	}
	s := before.clone()
	if err := errors.Join(s.follow(cfg, reset), refuseSwapped(before, s)); err != nil {
		return nil, err
	}
	p, err := r.makePlan(s)
	if err != nil {
		return nil, err
	}
	if err := r.checkPorts(loaded, s, p); err != nil {
		return nil, err
	}
	out := &Preview{Plan: p, Kept: s.kept(), Notes: slices.Concat(waitingWarnings(p), cautions(p.AllRules(), p), senderWarnings(p.Client)), Changes: changesOf(before, s)}
	if cfg.Tor.Mode == config.TorManaged {
		if out.Torrc, err = r.torrcs(s, p); err != nil {
			return nil, err
		}
	}
	guarded, err := loader.CanGuardForward()
	if err != nil {
		return nil, err
	}
	err = elsewhere(func() error {
		if err := nft.Apply(p); err != nil {
			return err
		}
		out.NFT = listed(ctx, "nft", "-s", "list", "table", "inet", plan.Table)
		if guarded && !besideGuard(s.Config, p) {
			return nil
		}
		if err := route.Apply(p); err != nil {
			return err
		}
		out.Rules = listed(ctx, "ip", "rule", "list", "protocol", fmt.Sprint(plan.RuleProtocol)) +
			listed(ctx, "ip", "-6", "rule", "list", "protocol", fmt.Sprint(plan.RuleProtocol))
		return nil
	})
	return out, err
}

// torrcs are the configurations of all tors.
func (r *Router) torrcs(s *State, p *plan.Plan) (string, error) {
	var texts []string
	for i := range p.Tors() {
		text, err := r.torOptions(s, p, i).Text()
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "\n"), nil
}

// changesOf tells interfaces and rules that come and go, with + and - before them.
func changesOf(before, after *State) []string {
	was, is := before.told(), after.told()
	out := []string{}
	for _, line := range was {
		if !slices.Contains(is, line) {
			out = append(out, "- "+line)
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			out = append(out, "+ "+line)
		}
	}
	return out
}

// told lists the interfaces and the rules of a state.
func (s *State) told() []string {
	var out []string
	for _, name := range s.Config.Interfaces {
		out = append(out, "interface "+name)
	}
	if s.Config.Client.Enable {
		out = append(out, clientWords)
	}
	for _, rule := range s.Config.Rules {
		out = append(out, "rule "+rule.Words())
	}
	return out
}

// listed is what a command prints, or why it does not.
func listed(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s%s: not shown: %v\n", out, name, err)
	}
	return string(out)
}

// elsewhere runs something in a new network namespace. Its thread is never unlocked, so
// it ends with the goroutine, and the namespace with it.
func elsewhere(do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		result <- do()
	}()
	return <-result
}
