package router

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/nft"
)

// Preview is what a configuration would do to this host.
type Preview struct {
	Plan  *plan.Plan
	NFT   string // the table as nft lists it
	Rules string // the ip rules of both families as ip lists them
	Torrc string // of a managed tor; "" for the system's
}

// Preview plans for this host as it is now and changes nothing of it: the table and the
// rules are made in a network namespace of their own, which goes with the call.
func (r *Router) Preview(ctx context.Context, cfg config.Config) (*Preview, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	rules, err := last(cfg.Rules)
	if err != nil {
		return nil, err
	}
	cfg.Rules = rules
	s := &State{Config: cfg}
	p, err := r.makePlan(s)
	if err != nil {
		return nil, err
	}
	out := &Preview{Plan: p}
	if cfg.Tor.Mode == config.TorManaged {
		if out.Torrc, err = r.torOptions(s, p).Text(); err != nil {
			return nil, err
		}
	}
	err = elsewhere(func() error {
		if err := errors.Join(nft.Apply(p), route.Apply(p)); err != nil {
			return err
		}
		out.NFT = listed(ctx, "nft", "-s", "list", "table", "inet", plan.Table)
		out.Rules = listed(ctx, "ip", "rule", "list", "protocol", fmt.Sprint(plan.RuleProtocol)) +
			listed(ctx, "ip", "-6", "rule", "list", "protocol", fmt.Sprint(plan.RuleProtocol))
		return nil
	})
	return out, err
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
