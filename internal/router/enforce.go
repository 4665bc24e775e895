package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/nft"
)

// Enforce makes a configuration file's wish the one in force. Where nothing is
// attached, its interfaces are blocked by name, which takes no time and nothing
// of the host: what may be attached now is left to Mend. Where that file is in
// force already, what commands have changed since stays.
//
// New lists are read before the lock is taken, with the old policy in force until all of the
// new one is there. One that is broken leaves that whole.
func (r *Router) Enforce(ctx context.Context, cfg config.Config) error {
	if err := requireRoot(); err != nil {
		return err
	}
	origin, err := digestOf(cfg)
	if err != nil {
		return err
	}
	seen, err := r.loadState()
	if err != nil {
		return err
	}
	files := listFiles{}
	wished, err := seen.wished(cfg, origin)
	if err != nil {
		return err
	}
	if wished != nil {
		if files, err = r.readFor(wished, files); err != nil {
			return err
		}
		defer debug.FreeOSMemory() // as after Look
		defer files.read.close()
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	before, err := r.loadState()
	if err != nil {
		return err
	}
	if seen != nil && before == nil {
		return errors.Join(fmt.Errorf("it has been detached meanwhile: %w", ErrNotAttached), r.forgetIfUnused(nil))
	}
	if err := r.enforce(ctx, before, cfg, origin, files); err != nil {
		return err
	}
	if err := r.rememberGuarded(cfg); err != nil {
		r.notify(fmt.Sprintf("warning: should the configuration file break, nothing would be blocked at boot: %v", err))
	}
	return nil
}

// wished is the state that a configuration file makes of one in which interfaces are attached;
// nil for others, and where the file is in force.
func (s *State) wished(cfg config.Config, origin string) (*State, error) {
	if s == nil || s.Blocked || s.Origin == origin {
		return nil, nil
	}
	out := s.clone()
	out.Origin = origin
	return out, out.follow(cfg, false)
}

func (r *Router) enforce(ctx context.Context, before *State, cfg config.Config, origin string, files listFiles) error {
	if before == nil || before.Blocked { // once more, even if the file is the same: it may not have come about
		s := &State{}
		if before != nil {
			s = before.clone()
		}
		if err := s.follow(cfg, false); err != nil {
			return err
		}
		s.Origin = origin
		if err := r.block(s); err != nil {
			return err
		}
		r.Record(EventAttach, "the configuration file is read, and blocked until it can be attached: "+s.whom())
		return nil
	}
	s, err := before.wished(cfg, origin)
	if s == nil || err != nil {
		return err
	}
	if _, err := r.bringLists(ctx, before, s, false, files); err != nil {
		return err
	}
	r.Record(EventAttach, "the configuration file is in force, on Tor: "+s.whom())
	if other := s.otherResolver(cfg); other != "" {
		r.notify("warning: " + other)
	}
	return nil
}

// follow makes a state that of a file, with what commands have added and has not ended,
// unless reset.
func (s *State) follow(cfg config.Config, reset bool) error {
	active, _, err := s.activeRules()
	if err != nil {
		return err
	}
	rules, err := last(cfg.Rules)
	if err != nil {
		return err
	}
	rules = rules.EndingAs(slices.Concat(s.Config.Rules, s.Ended))
	s.Ended = s.Ended.NamedIn(rules)
	s.Config = cfg
	s.Config.Rules = rules
	if reset {
		s.Given = Given{}
		return nil
	}
	s.Config.Rules = withRuntime(rules, active)
	if s.Given.Resolver.IsValid() {
		s.Config.Resolver = s.Given.Resolver
	}
	for name, mac := range s.Given.Devices {
		s.Config.Devices = renamed(s.Config.Devices, mac, name)
	}
	return nil
}

// kept tells what of a state no file has said.
func (s *State) kept() []string {
	var out []string
	for _, rule := range s.Config.Rules {
		if rule.Runtime {
			out = append(out, rule.Words())
		}
	}
	if s.Given.Resolver.IsValid() {
		out = append(out, fmt.Sprintf("the resolver %s for excluded names", s.Given.Resolver))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Given.Devices)) {
		out = append(out, fmt.Sprintf("the name %s for %s", name, s.Given.Devices[name]))
	}
	return out
}

// otherResolver says so where excluded names are not asked of whom a file names.
func (s *State) otherResolver(file config.Config) string {
	if !file.Resolver.IsValid() || file.Resolver == s.Config.Resolver {
		return ""
	}
	return fmt.Sprintf("excluded names are asked of %s, which a command has named, and not of %s as the configuration file has it: `torbpf apply --reset` takes that", s.Config.Resolver, file.Resolver)
}

// withRuntime adds to the rules of a file what commands have added, which no file takes
// away. Of two rules for the same, that of the command counts.
func withRuntime(file, before config.Rules) config.Rules {
	out := slices.Clone(file)
	for _, layer := range before.Layers() {
		if layer.Runtime {
			out.Add(layer)
		}
	}
	return out
}

// InForce tells whether anything is attached or blocked.
func (r *Router) InForce() (bool, error) {
	if err := requireRoot(); err != nil {
		return false, err
	}
	s, err := r.loadState()
	return s != nil, err
}

// Attached tells whether interfaces are attached, and not only blocked.
func (r *Router) Attached() (bool, error) {
	if err := requireRoot(); err != nil {
		return false, err
	}
	s, err := r.loadState()
	return s != nil && !s.Blocked, err
}

// guardedPath holds the last configuration that could be read. It outlives a
// reboot, so that a file that cannot be read then does not leave a LAN open.
func (r *Router) guardedPath() string { return filepath.Join(r.data, "guarded.json") }

func (r *Router) rememberGuarded(cfg config.Config) error {
	text, err := json.Marshal(cfg)
	if err == nil {
		err = os.MkdirAll(r.data, 0o711)
	}
	if err == nil {
		err = config.ReplaceFile(r.guardedPath(), text)
	}
	if err != nil {
		return fmt.Errorf("remember which interfaces to block: %w", err)
	}
	return nil
}

// ForgetGuarded forgets that configuration, so that a boot without a file blocks nothing.
func (r *Router) ForgetGuarded() error {
	if err := os.Remove(r.guardedPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget which interfaces to block: %w", err)
	}
	return nil
}

// BlockLast blocks what the last configuration that could be read names, unless something
// is in force. It returns the names.
func (r *Router) BlockLast(ctx context.Context) ([]string, error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, err := r.loadState()
	switch {
	case err != nil:
		return nil, err
	case before != nil && before.Blocked:
		return before.names(), r.block(before)
	case before != nil:
		return nil, nil
	}
	text, err := os.ReadFile(r.guardedPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, r.forgetIfUnused(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("read which interfaces to block: %w", err)
	}
	s := &State{}
	if err := json.Unmarshal(text, &s.Config); err != nil {
		return nil, fmt.Errorf("read which interfaces to block from %s: %w", r.guardedPath(), err)
	}
	return s.names(), r.block(s)
}

// block closes the interfaces of a state by their names, and nothing else.
func (r *Router) block(s *State) error {
	s.Blocked, s.Planned, s.Lists = true, "", nil
	// The kernel first: a disk that is full must not keep anything open.
	p := plan.Block(s.Config)
	return errors.Join(nft.Apply(p), r.blockForward(s, p), r.saveState(s))
}

// restoreBlock goes back to the block after an attach that failed: that comes
// first, then the programs go. Tor runs on; the next attempt will want it.
func (r *Router) restoreBlock(before, failed *State) error {
	s := before.clone()
	s.Sentry, s.Proxy, s.Sysctls = failed.Sentry, failed.Proxy, maps.Clone(failed.Sysctls)
	if err := r.block(s); err != nil {
		return err
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Withdraw(), stopSentry(s), stopProxy(s)); err != nil {
		return err
	}
	return r.saveState(s)
}
