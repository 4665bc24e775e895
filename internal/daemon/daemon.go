// Package daemon keeps what internal/router attaches as it should be: `torbpf
// run`, for a service manager. It decides when something is looked at and how
// often it is tried; what is wrong and how it is put right is the router's.
//
//	configuration ─▶ Enforce: the interfaces are blocked by name      ─▶ READY=1
//	SIGHUP        ─▶ Enforce, beside all else: lists take seconds to be read
//	                     │
//	rtnetlink, nftables ─┼─▶ Mend: attach what has come, repair what is gone
//	a tick               │       (one after the other, slower while it fails)
//	                     ├─▶ tor that hangs is restarted
//	                     ├─▶ what a killed exec has left is ended
//	                     ├─▶ lists whose files change are read and put in force
//	                     ├─▶ the fast path is permitted for two seconds more, or ended
//	                     ├─▶ the API is served, and the process that serves metrics and the page kept running
//	                     └─▶ alarms of the last guards are logged
//
// It is never what keeps traffic in: all of that is in the kernel, and while the
// daemon is dead or behind, what is missing blocks. When it is told to stop, it
// leaves everything as it is.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/sdnotify"
	"golang.org/x/sync/errgroup"

	"github.com/torbpf/torbpf/internal/access"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// Options say what a daemon runs with.
type Options struct {
	Router  *router.Router
	Version string // of this program
	File    string // the configuration; one that does not exist leaves what is attached
	Log     *slog.Logger
}

// daemon is one run of Run.
type daemon struct {
	Options
	notifier *sdnotify.Notifier // nil without a service manager that listens
	kicks    chan struct{}
	paces    paces
	waiting  []string // what was logged last
	troubles []string // likewise
	slow     []string // what is in the way of the fast path, likewise
	shown    string   // by the service manager, likewise
	keeper   *access.Keeper
	served   atomic.Pointer[router.Served] // by TCP; nil: not yet, or not now
}

// Run keeps a configuration in force until ctx ends, which is no error. It
// returns an error at once if there is nothing to keep, another one runs, or a configuration
// cannot be used: then the interfaces of the last one that could are blocked.
func Run(ctx context.Context, o Options) error {
	// A crash of Go's, and SIGABRT of a watchdog, would end with exit code 2, which tells the
	// service manager not to start this anew; so they end with the signal.
	debug.SetTraceback("crash")
	if err := boundFiles(); err != nil {
		return err
	}
	d := &daemon{Options: o, kicks: make(chan struct{}, 1), paces: make(paces), keeper: access.New()}
	notifier, err := sdnotify.New()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reach the service manager: %w", err)
	}
	if err == nil {
		d.notifier = notifier
		defer notifier.Close()
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	release, err := d.alone(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := d.begin(ctx); err != nil {
		return err
	}
	events, err := subscribe()
	if err != nil {
		return err
	}
	d.notify(sdnotify.Ready)
	g, ctx := errgroup.WithContext(ctx)
	for _, e := range events {
		g.Go(func() error { return e.watch(ctx, d.kick) })
	}
	g.Go(func() error { return d.watchTor(ctx) })
	g.Go(func() error { return d.watchGate(ctx) })
	g.Go(func() error { return d.watchAlarms(ctx) })
	g.Go(func() error { return d.watchLists(ctx) })
	g.Go(func() error { return d.watchCells(ctx) })
	g.Go(func() error { return d.watchHangups(ctx, hangup) })
	g.Go(func() error { return d.serveAPI(ctx) })
	g.Go(func() error { return d.watchWeb(ctx) })
	g.Go(func() error { return d.mend(ctx) })
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	d.notify(sdnotify.Stopping)
	return err
}

// Block does what Run does before it is ready, and ends: the interfaces of a configuration that
// is not in force yet are blocked by their names. It is for service managers that start the
// network without waiting until a daemon is ready. Where one runs already, that has done so.
func Block(ctx context.Context, o Options) error {
	d := &daemon{Options: o}
	release, err := d.alone(ctx)
	if errors.Is(err, router.ErrBusy) {
		o.Log.Info("torbpf run is there, and keeps the configuration in force")
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	return d.begin(ctx)
}

// alone refuses to run beside another daemon. Whatever else keeps it from telling is no reason
// to leave a boot open.
func (d *daemon) alone(ctx context.Context) (release func(), err error) {
	release, err = d.Router.LockRun(ctx)
	switch {
	case err == nil:
		return release, nil
	case errors.Is(err, router.ErrBusy), errors.Is(err, router.ErrPrivilege), ctx.Err() != nil:
		return nil, err
	}
	d.Log.Warn("whether another one runs is not known", "error", err)
	return func() {}, nil
}

// errNothing says that there is neither a configuration nor anything attached.
var errNothing = fmt.Errorf("there is nothing to run: %w", router.ErrNotAttached)

// begin puts the configuration file in force. One that cannot be used ends a boot,
// with what the last one named blocked; but what is attached is kept all the same.
func (d *daemon) begin(ctx context.Context) error {
	attached, err := d.Router.Attached()
	if err != nil {
		return err
	}
	err = d.load(ctx)
	switch {
	case err == nil || errors.Is(err, errNothing):
		return err
	case attached:
		d.Log.Error("the configuration could not be put in force, what is attached is kept", "error", err)
		return nil
	}
	return errors.Join(err, d.blockLast(ctx))
}

// load puts the configuration file in force.
func (d *daemon) load(ctx context.Context) error {
	cfg, err := config.Load(d.File)
	if errors.Is(err, os.ErrNotExist) {
		attached, err := d.Router.InForce()
		if err == nil && !attached {
			err = fmt.Errorf("%w, and %s does not exist: run `torbpf attach INTERFACE`, then `torbpf enable`", errNothing, d.File)
		}
		return err
	}
	if err != nil {
		return err
	}
	return d.Router.Enforce(ctx, cfg)
}

func (d *daemon) blockLast(ctx context.Context) error {
	names, err := d.Router.BlockLast(ctx)
	if len(names) > 0 {
		d.Log.Error("blocked what the last configuration that could be read names", "blocked", names)
	}
	return err
}

// reload is load for a daemon that runs: an error changes nothing.
func (d *daemon) reload(ctx context.Context) {
	if attached, err := d.Router.InForce(); err == nil && !attached {
		d.Log.Info("not reloaded: what was attached has been detached; attach, or start the service anew")
		return
	}
	d.notify(sdnotify.Reloading)
	d.Log.Info("the configuration is read anew", "file", d.File)
	if err := d.load(ctx); err != nil {
		d.Log.Error("the configuration was not reloaded, the old one stays", "error", err)
	} else {
		d.Log.Info("the configuration is in force", "file", d.File)
	}
	d.notify(sdnotify.Ready)
}

// watchHangups reloads at each SIGHUP. What is wrong meanwhile is mended with the policy of
// before.
func (d *daemon) watchHangups(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			d.reload(ctx)
			d.kick()
		}
	}
}

// notify tells the service manager. What it does not get it acts upon itself.
func (d *daemon) notify(states ...string) {
	if d.notifier == nil {
		return
	}
	if err := d.notifier.Notify(states...); err != nil {
		d.Log.Warn("the service manager was not told", "error", err)
	}
}

// kick has everything looked at soon.
func (d *daemon) kick() {
	select {
	case d.kicks <- struct{}{}:
	default: // it will be already
	}
}

// watchdog resets the service manager's watchdog (systemd, WatchdogSec).
const watchdog = "WATCHDOG=1"

// Paces of the loop.
const (
	// tick finds what announces itself by no event: tc programs, processes.
	tick = 250 * time.Millisecond
	// settle lets a burst of events come to its end.
	settle = 20 * time.Millisecond
	// lookAgain is how often everything is looked at without an event.
	lookAgain = 5 * time.Second
)

// mend repairs until ctx ends, or another version of torbpf has taken over.
func (d *daemon) mend(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var looked time.Time // at everything
	for kicked := true; ; {
		all := kicked || time.Since(looked) >= lookAgain
		if all {
			looked = time.Now()
		}
		d.keepFast(kicked)
		if err := d.once(ctx, all); err != nil {
			return err
		}
		d.notify(watchdog)
		kicked = false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.kicks:
			kicked = true
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
		case <-ticker.C:
		}
	}
}

// keepFast looks whether there may be a fast path. It comes before repairs, which take time.
func (d *daemon) keepFast(changed bool) {
	why, err := d.Router.KeepFast(changed)
	if err != nil {
		why = append(why, err.Error())
	}
	if slices.Equal(why, d.slow) {
		return
	}
	if d.slow = why; len(why) > 0 {
		d.Log.Warn("the fast path is off, everything goes the slow way", "why", why)
	} else {
		d.Log.Info("nothing is in the way of the fast path any more")
	}
}

// once mends once and tells what came of it. It returns an error if that is no longer this
// daemon's to do.
func (d *daemon) once(ctx context.Context, all bool) error {
	var asked []string
	m, err := d.Router.Mend(ctx, all, func(found []string) bool {
		asked = found
		return d.paces.due(found, time.Now())
	})
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, router.ErrTakenOver):
		return err
	case err != nil:
		d.paces.tried(asked, time.Now())
		d.trouble(append(m.Found, err.Error()), "could not be mended, what is missing blocks; it will be tried again")
		d.show(m)
		return nil
	case m.Mended:
		d.paces.tried(asked, time.Now())
		d.troubles = nil
		d.Log.Warn("mended", "found", m.Found, "seconds", m.Took.Seconds())
		d.Router.Record(router.EventRepair, strings.Join(m.Found, "; "))
	case len(m.Found) > 0 && asked == nil:
		d.trouble(m.Found, "cannot be mended by torbpf")
	case asked == nil:
		d.troubles = nil
	}
	if !slices.Equal(m.Waiting, d.waiting) {
		d.waiting = m.Waiting
		d.Log.Info("interfaces that are waited for, and blocked meanwhile", "interfaces", m.Waiting)
	}
	if !m.Mended { // or it is of before
		d.show(m)
	}
	return nil
}

// show has the service manager show what is in force (systemctl status).
func (d *daemon) show(m router.Mended) {
	var parts []string
	if len(m.Attached) > 0 {
		parts = append(parts, "on Tor: "+strings.Join(m.Attached, ", "))
	}
	if len(m.Waiting) > 0 {
		parts = append(parts, "blocked until there: "+strings.Join(m.Waiting, ", "))
	}
	if len(d.troubles) > 0 {
		parts = append(parts, "not in order, see torbpf check")
	}
	if len(parts) == 0 {
		parts = []string{"nothing is attached"}
	}
	if text := strings.Join(parts, "; "); text != d.shown {
		d.shown = text
		d.notify(sdnotify.Statusf("%s", text))
	}
}

// trouble logs what does not go away once, not at every turn.
func (d *daemon) trouble(found []string, text string) {
	if !slices.Equal(found, d.troubles) {
		d.troubles = found
		d.Log.Error(text, "found", found)
		d.Router.Record(router.EventTrouble, strings.Join(found, "; ")+": "+text)
	}
}
