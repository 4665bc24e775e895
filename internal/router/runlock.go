package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// runLockPath is beside the state directory, since detach removes that while `torbpf run`
// goes on.
func (r *Router) runLockPath() string { return filepath.Join(runDir, r.ns.Name+".run") }

// LockRun makes this process the one that is `torbpf run` in the namespace, until release or
// its end, however it comes about: two would undo each other's repairs, and each log what the
// other has done. While another is there it waits for that to end for as long as commands
// wait for one another; the error then wraps ErrBusy. Any other error is no reason not to
// run: what is not blocked is open.
func (r *Router) LockRun(ctx context.Context) (release func(), err error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(runDir, 0o711); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	f, err := lockFile(r.runLockPath())
	if errors.Is(err, ErrBusy) {
		r.notify(fmt.Sprintf("waiting: %v", err))
		f, err = waitLock(ctx, lockPatience, r.runLockPath())
	}
	if errors.Is(err, ErrBusy) {
		return nil, fmt.Errorf("%w, and it is `torbpf run`, of which there is one: for a changed configuration file send it SIGHUP (systemctl reload torbpf); to put this one in its place end it first", err)
	}
	if err != nil {
		return nil, err
	}
	sign(f)
	return func() {
		defer f.Close()
		_ = os.Remove(r.APISocket())
		_ = os.Remove(f.Name())
		_ = os.Remove(runDir) // unless something else is there
	}, nil
}

// removeRunLock removes what a killed `torbpf run` left. One that is there keeps it.
func (r *Router) removeRunLock() error {
	f, err := lockFile(r.runLockPath())
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return ignoreMissing(err)
	}
	defer f.Close()
	return errors.Join(ignoreMissing(os.Remove(r.APISocket())), os.Remove(f.Name()))
}
