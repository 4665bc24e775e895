package proxy

import (
	"context"
	"os"

	"github.com/torbpf/torbpf/internal/confined"
)

// role names the proxy's process.
const role = confined.Role("proxy")

// SpawnOptions say what Spawn starts.
type SpawnOptions struct {
	// Args is the command line behind the program's name; the program is the
	// one that is running, which must call RunChild for them.
	Args   []string
	Config Config
	// Cgroup is the folder of the control group whose sockets go direct; it stays the
	// caller's. Without it (nil) what the proxy sends is Tor's.
	Cgroup *os.File
	Log    *os.File // standard error of the proxy; nil for none
}

// Spawn starts a proxy in the network namespace of the calling thread, in a session of
// its own, without any privilege, and returns when it serves. What keeps it from serving
// (a port that is taken) is the error. The start time goes with the pid into Running and
// Stop.
func Spawn(opts SpawnOptions) (pid int, starttime uint64, err error) {
	return role.Spawn(confined.Options{
		Args: opts.Args, Config: opts.Config, Log: opts.Log, Cgroup: opts.Cgroup,
		Env: []string{"GOMAXPROCS=1", "GOMEMLIMIT=48MiB", "GOGC=50"},
	})
}

// RunChild is the proxy's whole life in a process started by Spawn: it takes what Spawn
// left it, reports whether it could begin, and runs until ctx ends.
func RunChild(ctx context.Context) error {
	return confined.RunChild(role, maxOpenFiles, func(cfg Config, ready func() error) error {
		return Run(ctx, cfg, ready)
	})
}

// Running reports whether the process that Spawn started is still there. The start time
// (in clock ticks since boot) tells it from another one that got the same pid later.
func Running(pid int, starttime uint64) bool { return confined.Running(pid, starttime) }

// Stop ends the process that Spawn started and waits until it is gone; one that is gone
// already is no error. No other process is ever signalled.
func Stop(pid int, starttime uint64) error { return role.Stop(pid, starttime) }

// StopAll ends every proxy in the network namespace of the calling thread. It is for
// when their numbers may have been lost; Stop is surer.
func StopAll() error { return role.StopAll() }
