package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/router"
)

// A tor that does not answer is asked again before it is taken for hung: one that
// swaps or writes to a slow disk comes back, and its circuits are worth the wait.
const (
	torPause    = 4 * time.Second
	torPatience = 3 // unanswered questions in a row, each of a few seconds
)

// watchTor restarts managed tors that hang.
func (d *daemon) watchTor(ctx context.Context) error {
	ticker := time.NewTicker(torPause)
	defer ticker.Stop()
	silent := make(map[int]int) // by instance
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		hung, err := d.Router.HungTors(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			d.Log.Warn("tor could not be looked at", "error", err)
			continue
		}
		maps.DeleteFunc(silent, func(instance, _ int) bool { return !slices.Contains(hung, instance) })
		for _, instance := range hung {
			if silent[instance]++; silent[instance] == torPatience {
				delete(silent, instance)
				d.restartTor(ctx, instance)
			}
		}
	}
}

func (d *daemon) restartTor(ctx context.Context, instance int) {
	d.Log.Error("tor hangs: it is started anew, until it is ready its clients use another or are refused", "instance", instance)
	d.Router.Record(router.EventTor, fmt.Sprintf("number %d hung, and is started anew: until it is ready its clients use another, or are refused", instance))
	if err := d.Router.RestartTor(ctx, instance); err != nil && ctx.Err() == nil {
		d.Log.Error("tor could not be started anew", "instance", instance, "error", err)
	}
}

// gatePause is how often it is looked whether clients are served.
const gatePause = time.Second

// watchGate tells when Tor begins and ceases to serve clients.
func (d *daemon) watchGate(ctx context.Context) error {
	ticker := time.NewTicker(gatePause)
	defer ticker.Stop()
	for served := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now, known := d.Router.Served()
		if !known || now == served {
			continue
		}
		served = now
		if served {
			d.Log.Info("Tor is ready, and serves clients")
			d.Router.Record(router.EventTor, "it is ready, and serves clients")
		} else {
			d.Log.Warn("Tor is not ready any more: clients are refused")
			d.Router.Record(router.EventTor, "it is not ready any more: clients are refused")
		}
	}
}

// listPause is how often the files of lists are looked at.
const listPause = 3 * time.Second

// watchLists puts lists in force whose files have changed.
func (d *daemon) watchLists(ctx context.Context) error {
	ticker := time.NewTicker(listPause)
	defer ticker.Stop()
	for watch := d.Router.WatchLists(); ; {
		listed, err := watch.Look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, problem := range listed.Problems {
			d.Log.Error("a list cannot be used", "problem", problem)
		}
		if err != nil {
			d.Log.Error("lists could not be put in force, the old ones stay", "error", err)
		} else if len(listed.Changed) > 0 {
			d.Log.Info("lists are in force", "paths", listed.Changed, "seconds", listed.Took.Seconds())
			d.kick()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// watchCells ends what a `torbpf exec` that was killed has left. It has a task of its own, since
// it gives programs time to end.
func (d *daemon) watchCells(ctx context.Context) error {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := d.Router.SweepCells(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			d.Log.Error("what a killed torbpf exec has left could not be ended, it will be tried again", "error", err)
		}
	}
}

// watchAlarms logs what only the last guards stopped. The log does not say where
// it was bound: logs travel, and `torbpf check` shows the headers.
func (d *daemon) watchAlarms(ctx context.Context) error {
	var last time.Time
	unsaid := 0
	return d.Router.WatchAlarms(ctx, func(a router.Alarm) {
		now := time.Now()
		if now.Sub(last) < time.Second {
			unsaid++
			return
		}
		last = now
		d.Log.Error("ALARM: a packet got as far as a last guard, which stopped it; see `torbpf check`",
			"interface", a.Interface, "reason", a.Reason, "protocol", a.Protocol, "length", a.Length, "more", unsaid)
		unsaid = 0
	})
}
