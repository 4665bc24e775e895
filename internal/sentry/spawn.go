package sentry

import (
	"fmt"
	"os"
	"time"

	"github.com/torbpf/torbpf/internal/confined"
)

// role names the sentry's process.
const role = confined.Role("sentry")

// SpawnOptions say what Spawn starts.
type SpawnOptions struct {
	// Args is the command line behind the program's name; the program is the
	// one that is running, which must call RunChild for them.
	Args   []string
	Config Config // its descriptors are filled in
	Gates  int    // the BPF array `gates`; stays the caller's
	Slots  int    // the BPF array `domain_slots`, for a Config with Domains; stays the caller's
	Askers int    // the BPF array `askers`, for one with Domains or several tors, likewise
	// Memory is a unix socket that listens, by which Recall asks; nil: nobody does. It stays the caller's.
	Memory *os.File
	Log    *os.File // standard error of the sentry; nil for none
	// Cgroup is the folder of the control group that it is to be in; nil for the caller's.
	Cgroup *os.File
	// Group is tor's, so that the sentry can read the cookie of the control
	// port; 0 for the account's own group.
	Group uint32

	patience time.Duration // how long it may take to begin; 0 for the default
}

// Spawn starts a sentry in the network namespace of the calling thread, in a
// session of its own, without any privilege, and returns when it serves. What
// keeps it from serving (a port that is taken) is the error. The start time
// goes with the pid into Running and Stop.
func Spawn(opts SpawnOptions) (pid int, starttime uint64, err error) {
	files, err := opts.maps()
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	if err != nil {
		return 0, 0, fmt.Errorf("start %s: %w", role, err)
	}
	return role.Spawn(confined.Options{
		Args: opts.Args, Config: opts.Config, Files: files,
		Env: []string{"GOMAXPROCS=1", "GOMEMLIMIT=16MiB", "GOGC=50"},
		Log: opts.Log, Cgroup: opts.Cgroup, Group: opts.Group, Patience: opts.patience,
	})
}

// maps duplicates what the sentry is to have beside its configuration, and has that name it.
func (o *SpawnOptions) maps() (files []*os.File, err error) {
	give := func(fd int, name string, at *int) {
		if err != nil {
			return
		}
		var file *os.File
		if file, err = confined.Duplicate(fd, name); err == nil {
			*at = childGates + len(files)
			files = append(files, file)
		}
	}
	o.Config.GateFD, o.Config.SlotsFD, o.Config.AskersFD, o.Config.MemoryFD = 0, 0, 0, 0
	give(o.Gates, "gates", &o.Config.GateFD)
	if len(o.Config.Domains) > 0 { // or it could let out what nobody has excluded
		give(o.Slots, "slots", &o.Config.SlotsFD)
	}
	if o.Config.tellsDevices() {
		give(o.Askers, "askers", &o.Config.AskersFD)
	}
	if o.Memory != nil {
		give(int(o.Memory.Fd()), "circuits", &o.Config.MemoryFD)
	}
	return files, err
}

// Running reports whether the process that Spawn started is still there. The
// start time (in clock ticks since boot) tells it from another one that got the
// same pid later.
func Running(pid int, starttime uint64) bool { return confined.Running(pid, starttime) }

// Stop ends the process that Spawn started and waits until it is gone; one that
// is gone already is no error. No other process is ever signalled.
func Stop(pid int, starttime uint64) error { return role.Stop(pid, starttime) }

// StopAll ends every sentry in the network namespace of the calling thread. It
// is for when their numbers may have been lost; Stop is surer.
func StopAll() error { return role.StopAll() }
