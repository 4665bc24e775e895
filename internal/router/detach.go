package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/proxy"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
	"github.com/torbpf/torbpf/tor"
)

// Detach takes interfaces, and with client what this machine itself sends, off Tor; the
// last of them takes everything with it, as DetachAll does. It returns what remains.
func (r *Router) Detach(ctx context.Context, interfaces []string, client bool) (OnTor, error) {
	var nothing OnTor
	unlock, err := r.lock(ctx)
	if err != nil {
		return nothing, err
	}
	defer unlock()
	before, err := r.loadState()
	if err == nil && before == nil {
		err = fmt.Errorf("%w: there is nothing to detach", ErrNotAttached)
	}
	if err != nil {
		return nothing, errors.Join(err, r.forgetIfUnused(before))
	}
	for _, name := range interfaces {
		if !slices.Contains(before.Config.Interfaces, name) {
			return nothing, fmt.Errorf("%w to %s; it is to %s", ErrNotAttached, name, before.whom())
		}
	}
	if client && !before.Config.Client.Enable {
		return nothing, fmt.Errorf("%w to this machine; it is to %s", ErrNotAttached, before.whom())
	}
	s := before.clone()
	s.Config.Interfaces = slices.DeleteFunc(s.Config.Interfaces, func(name string) bool {
		return slices.Contains(interfaces, name)
	})
	s.Config.Client.Enable = s.Config.Client.Enable && !client
	if s.unused() {
		return nothing, r.removeAll(ctx, before)
	}
	if _, err = r.bring(ctx, before, s, false); err != nil {
		return s.onTor(), err
	}
	r.Record(EventAttach, fmt.Sprintf("taken off Tor: %s; still on Tor: %s", joinNames(wordsOf(interfaces, client)), s.whom()))
	return s.onTor(), nil
}

// DetachAll removes everything of torbpf from this network namespace. It does
// so without a state file as well, or with one it cannot read: that is how to
// start afresh.
func (r *Router) DetachAll(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := r.loadState()
	if err != nil {
		r.notify(fmt.Sprintf("going on without the state file: %v", err))
	}
	found := s != nil || err != nil
	if !found {
		if found, err = r.anythingLeft(); err != nil {
			return err
		}
	}
	if !found {
		return errors.Join(ErrNotAttached, r.removeDirs())
	}
	return r.removeAll(ctx, s)
}

// attached returns the state, or ErrNotAttached, for root.
func (r *Router) attached() (*State, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	s, err := r.loadState()
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, fmt.Errorf("%w: run `sudo torbpf attach INTERFACE`, or --client for this machine itself", ErrNotAttached)
	}
	return s, nil
}

// anythingLeft tells whether the kernel holds something of ours of which no
// state file tells.
func (r *Router) anythingLeft() (bool, error) {
	d, err := r.datapath(false)
	if err != nil {
		return false, err
	}
	table, err := nft.Present()
	if err != nil {
		return false, err
	}
	daemons, err := r.findDaemons()
	if err != nil || slices.ContainsFunc(daemons, func(d *tor.Daemon) bool { return d != nil }) {
		return true, err
	}
	return d.Present() || table, nil
}

// removeAll takes everything down in the reverse order. nftables goes last of
// what blocks: until then nothing of a LAN passes. All of it is tried even if
// something fails, and the state file stays until all is gone.
func (r *Router) removeAll(ctx context.Context, s *State) error {
	if s == nil {
		s = &State{Config: config.Default()}
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return err
	}
	errs := []error{
		nft.Decelerate(), // or what is in the flowtable meets guards without being judged
		r.endCells(s),
		stopSentry(s),
		sentry.StopAll(), // the state may be lost, or older than what runs
	}
	release, err := d.HoldShut() // none is to begin behind those that end now
	errs = append(errs, err,
		endRedirected(s),
		r.endHandedOver(ctx, s),
		stopProxy(s),
		proxy.StopAll(),
		d.Remove(),
		route.Remove(),
		nft.Remove(),
		endRedirected(s), // should anything have let one through
		release(),
		r.forgetFlows(s),
		r.forgetSockets(s),
		r.stopTors(ctx, 0),
		r.removeGroups(s),
		host.Restore(s.Sysctls),
	)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(r.copiesDir()); err != nil {
		return fmt.Errorf("remove copies of lists: %w", err)
	}
	return r.removeDirs()
}

// removeDirs removes the run-time files, and those shared by all namespaces
// with the last of them. What Tor must not forget (its guards) is elsewhere.
func (r *Router) removeDirs() error {
	if err := os.RemoveAll(r.dir); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	if err := loader.Unmount(bpfDir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(runDir, r.ns.Name+".lock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove lock: %w", err)
	}
	if err := r.removeRunLock(); err != nil {
		return fmt.Errorf("remove lock: %w", err)
	}
	err := os.Remove(runDir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, os.ErrNotExist) {
		return nil // other namespaces are at work, or it has been removed before
	}
	return err
}

// forgetIfUnused removes the directories of a command that did not come about,
// unless they tell how to remove what is there without a state file.
func (r *Router) forgetIfUnused(before *State) error {
	if before != nil {
		return nil
	}
	if _, err := os.Stat(r.statePath()); !errors.Is(err, os.ErrNotExist) {
		return err // it could not be read, and is all there is to go by
	}
	left, err := r.anythingLeft()
	if err != nil || left {
		return err
	}
	return r.removeDirs()
}
