package router

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/cgroup"
)

// TestEndCellWaitsForTheLockAsLongAsItMay: a repair may have it for longer than a command waits,
// and what exec leaves must be forgotten all the same.
func TestEndCellWaitsForTheLockAsLongAsItMay(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newTestRouter(t, never)
	unlock, err := r.lock(t.Context())
	must(t, err)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := newTestRouter(t, never).EndCell(short, cgroup.Group{ID: 1}); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrBusy) {
		t.Errorf("with little time: %v", err)
	}
	time.AfterFunc(lockPatience+100*time.Millisecond, unlock)
	long, cancel := context.WithTimeout(t.Context(), 4*lockPatience)
	defer cancel()
	if err := newTestRouter(t, never).EndCell(long, cgroup.Group{ID: 1}); err != nil {
		t.Errorf("with time: %v", err)
	}
}

// TestLockIsHadWhileSomebodyElseDetaches: detach removes the folders in which the lock is.
func TestLockIsHadWhileSomebodyElseDetaches(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newTestRouter(t, never)
	ctx, stop := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for ctx.Err() == nil {
			for _, path := range []string{r.dir, r.dir + ".lock", runDir} {
				_ = os.Remove(path) // unless it is gone, or something is in it
			}
		}
	}()
	for range 200 {
		unlock, err := r.lock(t.Context())
		if err != nil {
			t.Error(err)
			break
		}
		unlock()
	}
	stop()
	<-gone
}

// TestWhoHasWaitedForTheLockHasItsFolder, which who had it before has removed.
func TestWhoHasWaitedForTheLockHasItsFolder(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newTestRouter(t, never)
	unlock, err := r.lock(t.Context())
	must(t, err)
	waits := make(chan error)
	go func() {
		second, err := newTestRouter(t, never).lock(t.Context())
		if err == nil {
			_, err = os.Stat(r.dir)
			second()
		}
		waits <- err
	}()
	time.AfterFunc(50*time.Millisecond, func() { // it may wait by now, and has made what it makes before
		must(t, os.RemoveAll(r.dir))
		unlock()
	})
	if err := <-waits; err != nil {
		t.Errorf("with the lock: %v", err)
	}
}
