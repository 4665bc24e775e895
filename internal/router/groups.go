package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/torbpf/torbpf/internal/cell"
	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/tor"
)

// The control groups of torbpf's own processes whose traffic is direct in client mode.
const (
	groupTor    = "tor"    // else a rule for a group around it would send it to itself
	groupSentry = "sentry" // asks for excluded names in clear
	groupProxy  = "proxy"
)

// Cell is a program that `torbpf exec` runs.
type Cell struct {
	Path   string        `json:"path"` // of its control group
	ID     uint64        `json:"id"`
	Policy config.Policy `json:"policy"`
}

// ownGroups are those whose traffic is direct with this configuration.
func ownGroups(cfg config.Config) []string {
	if !cfg.Client.Enable {
		return nil
	}
	groups := []string{groupTor}
	if cfg.Resolver.IsValid() && len(cfg.Rules.Of(config.KindDomain)) > 0 {
		groups = append(groups, groupSentry)
	}
	if cfg.Client.ProxyPort != 0 {
		groups = append(groups, groupProxy)
	}
	return groups
}

// makeGroups makes the groups that a configuration takes, before anything is planned.
func (r *Router) makeGroups(cfg config.Config) error {
	for _, name := range ownGroups(cfg) {
		if _, err := r.group(name); err != nil {
			return err
		}
	}
	return nil
}

// group is one of torbpf's own, made where there is none.
func (r *Router) group(name string) (cgroup.Group, error) {
	root, err := cgroup.Tree()
	if err != nil {
		return cgroup.Group{}, err
	}
	return cgroup.Ensure(root, r.ns.Name, name)
}

// torGroup is the control group that the sockets of a managed tor are of, or will be when it
// is started; "" where it has been started in another one.
func (r *Router) torGroup(cfg config.Config, d *tor.Daemon) (string, error) {
	if !slices.Contains(ownGroups(cfg), groupTor) {
		return "", nil
	}
	path := groupPath(r.ns.Name, groupTor)
	if d == nil {
		return path, nil
	}
	root, err := cgroup.Tree()
	if err != nil {
		return "", err
	}
	id, err := cgroup.ID(root, path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && id != d.Cgroup() {
		return "", nil
	}
	return path, err
}

// groupPath is where one of torbpf's own is, below the root.
func groupPath(namespace, name string) string { return filepath.Join("/torbpf", namespace, name) }

// openGroup opens the group that a process is to be started in; nil where it takes none.
func (r *Router) openGroup(cfg config.Config, name string) (*os.File, error) {
	if !slices.Contains(ownGroups(cfg), name) {
		return nil, nil
	}
	g, err := r.group(name)
	if err != nil {
		return nil, err
	}
	return g.Open()
}

// ownIdentities are those of torbpf's own processes, as far as their groups are there, and
// of what exec runs.
func (s *State) ownIdentities(namespace string) ([]plan.Identity, error) {
	var out []plan.Identity
	for _, c := range s.Cells {
		out = append(out, plan.Identity{Kind: config.KindCgroup, Cgroup: c.ID, Policy: c.Policy, Rule: -1})
	}
	if s.TorUser != 0 && s.usesClient() { // which what exec runs must know as well: it is not to use tor's transports
		out = append(out, plan.Identity{Kind: config.KindUser, User: s.TorUser, Policy: config.PolicyDirect, Rule: -1, Tor: true})
	}
	if !s.Config.Client.Enable {
		return out, nil
	}
	root, err := cgroup.Tree()
	if err != nil {
		return nil, err
	}
	for _, name := range ownGroups(s.Config) {
		id, err := cgroup.ID(root, groupPath(namespace, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, plan.Identity{Kind: config.KindCgroup, Cgroup: id, Policy: config.PolicyDirect, Rule: -1, Tor: name == groupTor})
	}
	return out, nil
}

// endCells ends what exec runs by Tor, which must not go on in clear: it is asked to while
// everything still holds it, and so is what no state tells of.
func (r *Router) endCells(s *State) error {
	groups, err := r.groups()
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, group := range groups {
		if cell.Is(group) && !s.runsDirect(group) {
			g.Go(func() error { return group.End(cell.Grace) })
		}
	}
	return g.Wait()
}

// removeGroups ends what is left in torbpf's groups. What exec runs direct goes on, as
// everything is direct now; its group goes with it.
func (r *Router) removeGroups(s *State) error {
	groups, err := r.groups()
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		if s.runsDirect(g) {
			held, err := cell.Held(g)
			if errs = append(errs, err); held {
				continue
			}
		}
		errs = append(errs, g.Kill(), g.Remove())
	}
	return errors.Join(errs...)
}

// groups lists torbpf's own.
func (r *Router) groups() ([]cgroup.Group, error) {
	root, err := cgroup.Tree()
	if err != nil {
		return nil, err
	}
	return cgroup.Groups(root, r.ns.Name)
}

// runsDirect tells whether a group is of a program that exec runs direct.
func (s *State) runsDirect(g cgroup.Group) bool {
	return slices.ContainsFunc(s.Cells, func(c Cell) bool { return c.ID == g.ID && c.Policy == config.PolicyDirect })
}

// forgetDirect forgets what exec runs direct where this machine is not on Tor: it is as
// everything else then.
func (s *State) forgetDirect() {
	if !s.Config.Client.Enable {
		s.Cells = slices.DeleteFunc(s.Cells, func(c Cell) bool { return c.Policy == config.PolicyDirect })
	}
}

// BeginCell lets what a control group sends go by a policy: direct while this machine is on
// Tor, or by Tor while it is not. Where nothing is attached, Tor is as the configuration
// file has it, if there is one: it may name bridges.
func (r *Router) BeginCell(ctx context.Context, file string, policy config.Policy, group cgroup.Group, report func(tor.Progress)) error {
	if err := r.SweepCells(ctx); err != nil {
		return err
	}
	_, controls, err := r.attach(ctx, func(s *State) error {
		if s.unused() {
			if err := s.takeTorOf(file); err != nil {
				return err
			}
		}
		if policy == config.PolicyDirect && !s.Config.Client.Enable {
			return ErrNotAttached
		}
		s.Cells = append(s.Cells, Cell{group.Path, group.ID, policy})
		return nil
	})
	if err != nil || policy == config.PolicyDirect {
		return err
	}
	patience := config.Default().Tor.Timeout
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("tor is not ready within %v", patience))
	defer cancel()
	if err := r.waitReady(ctx, controls, report); err != nil {
		return fmt.Errorf("the program was not started: %w", err)
	}
	return nil
}

// takeTorOf takes over what a file says of tor, and of how packets are marked.
func (s *State) takeTorOf(file string) error {
	cfg, err := config.LoadPart(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Config.Tor, s.Config.MarkShift, s.Config.Uplinks = cfg.Tor, cfg.MarkShift, cfg.Uplinks
	return nil
}

// EndCell forgets a group, and all of torbpf with the last one if nothing else is on Tor.
func (r *Router) EndCell(ctx context.Context, group cgroup.Group) error {
	unlock, err := r.lockToEnd(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	before, err := r.loadState()
	if err != nil || before == nil {
		return errors.Join(err, r.forgetIfUnused(before))
	}
	s := before.clone()
	s.Cells = slices.DeleteFunc(s.Cells, func(c Cell) bool { return c.ID == group.ID })
	switch {
	case len(s.Cells) == len(before.Cells):
		return nil
	case s.unused():
		return r.removeAll(ctx, before)
	}
	_, err = r.bring(ctx, before, s, false)
	return err
}

// SweepCells forgets programs whose `torbpf exec` was killed, and ends what is left of them.
func (r *Router) SweepCells(ctx context.Context) error {
	if err := requireRoot(); err != nil {
		return err
	}
	root, err := cgroup.Tree()
	if err != nil {
		return err
	}
	if err := cell.Sweep(ctx, root, r.ns.Name, r.EndCell); err != nil {
		return err
	}
	s, err := r.loadState()
	if err != nil || s == nil {
		return err
	}
	groups, err := r.groups()
	if err != nil {
		return err
	}
	for _, c := range s.Cells {
		if slices.ContainsFunc(groups, func(g cgroup.Group) bool { return g.ID == c.ID }) {
			continue
		}
		// Somebody else has removed its group, and nothing can be in it.
		if err := r.EndCell(ctx, cgroup.Group{Path: c.Path, ID: c.ID}); err != nil {
			return err
		}
	}
	return nil
}
