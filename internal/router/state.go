package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
)

// stateFormat is the version of the state file.
const stateFormat = 1

// State is what torbpf remembers of one network namespace between commands.
type State struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of the program that wrote it
	Cookie  uint64 `json:"cookie"`  // of the namespace; 0 where the kernel has none

	Config config.Config `json:"config"`
	Lists  []ListState   `json:"lists,omitempty"` // what the maps of lists hold, see chooseLists
	Onion4 netip.Prefix  `json:"onion4"`          // the .onion ranges in use
	Onion6 netip.Prefix  `json:"onion6"`
	// Instances is how many tors there are; 0, of a torbpf that knew one alone: one.
	Instances int            `json:"instances"`
	Links     map[string]int `json:"links"` // ifindex of each interface whose attach was completed, by name
	Sentry    Process        `json:"sentry"`
	Proxy     *ProxyState    `json:"proxy,omitempty"`    // nil: none runs
	Cells     []Cell         `json:"cells,omitempty"`    // what exec runs
	TorUser   uint32         `json:"tor_user,omitempty"` // whose tor it is, as client mode must know
	// TorGroup is the control group that all sockets of tor's are of; "" if it has others.
	TorGroup string            `json:"tor_group,omitempty"`
	Sysctls  map[string]string `json:"sysctls,omitempty"` // what detach restores
	// Blocked says that only the block of Enforce is in place: nothing of the
	// interfaces is forwarded, and Tor is not asked for anything yet.
	Blocked bool `json:"blocked"`
	// Given is what commands have said beside rules and not saved: no file takes it away.
	Given Given `json:"given"`
	// Ended are rules of files that have ended: should the wall clock be put back, a file
	// that is read again does not begin them anew.
	Ended config.Rules `json:"ended,omitempty"`
	// Planned is the digest of the plan in force: another one from the same
	// configuration means that the host has changed since.
	Planned string `json:"planned"`
	// Origin is the digest of the configuration file that Config was read from,
	// "" for none; what commands have changed since does not change it.
	Origin string   `json:"origin"`
	Lacks  []string `json:"lacks"` // layers that this kernel cannot have, in words
	// NoEarly says of LANs that were to refuse early why they do not.
	NoEarly map[string]string `json:"no_early,omitempty"`
	// NoFast says why this kernel can have no fast path that was asked for.
	NoFast string `json:"no_fast,omitempty"`
	// Stopped is what the last guards had stopped when all stood: on the way
	// there they meet packets that the layers before them do not judge yet.
	Stopped uint64 `json:"stopped"`
	// Behind is what had been refused behind nftables when that began to count.
	Behind behind `json:"behind"`
}

// Given is a part of a configuration.
type Given struct {
	Resolver netip.Addr            `json:"resolver"` // invalid for none
	Devices  map[string]config.MAC `json:"devices,omitempty"`
}

// Process names a process so that a reused number is not taken for it.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, /proc/PID/stat
}

func (r *Router) statePath() string { return filepath.Join(r.dir, "state.json") }

// loadState reads the state; nil without an error means that nothing is
// attached.
func (r *Router) loadState() (*State, error) {
	data, err := os.ReadFile(r.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read state %s: %w; run `torbpf detach --all` to start afresh", r.statePath(), err)
	}
	if s.Format != stateFormat {
		return nil, fmt.Errorf("state %s has format %d, written by torbpf %s; this one knows format %d: run `torbpf detach --all` with that version, then attach with this one",
			r.statePath(), s.Format, s.Version, stateFormat)
	}
	if s.Cookie != 0 && r.ns.Cookie != 0 && s.Cookie != r.ns.Cookie {
		return nil, nil // of a namespace that is gone and had our number
	}
	return &s, nil
}

// saveState writes the state aside and renames it, so a reader finds the old
// one or the new one whole.
func (r *Router) saveState(s *State) error {
	s.Format, s.Version, s.Cookie = stateFormat, r.version, r.ns.Cookie
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := config.ReplaceFile(r.statePath(), append(data, '\n')); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// lockPatience is how long a command waits for another one, or for a repair of
// the daemon's, to end.
const lockPatience = 5 * time.Second

// lock makes this process the only one to change anything in the namespace.
// The kernel drops it when the process ends, however it does.
func (r *Router) lock(ctx context.Context) (unlock func(), err error) {
	return r.lockWithin(ctx, lockPatience)
}

// lockToEnd is lock for what must not be left undone: it waits as long as its caller may.
func (r *Router) lockToEnd(ctx context.Context) (unlock func(), err error) {
	patience := lockPatience
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline)
	}
	return r.lockWithin(ctx, patience)
}

func (r *Router) lockWithin(ctx context.Context, patience time.Duration) (unlock func(), err error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	f, err := r.openLock(ctx, patience)
	// Somebody else's detach may remove the folder just before its lock is opened.
	for end := time.Now().Add(patience); errors.Is(err, fs.ErrNotExist) && time.Now().Before(end); {
		f, err = r.openLock(ctx, patience)
	}
	if errors.Is(err, ErrBusy) {
		return nil, fmt.Errorf("%w: wait for it to end and try again", err)
	}
	if err != nil {
		return nil, err
	}
	sign(f)
	return func() { f.Close() }, nil
}

// openLock locks the file beside the state directory, and makes both where they are not there: the latter
// when it has the lock, since who had it before may have removed it.
func (r *Router) openLock(ctx context.Context, patience time.Duration) (*os.File, error) {
	// Root's own folder: others may pass through, to tor's and the sentry's
	// files, but not look around.
	if err := os.MkdirAll(runDir, 0o711); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	f, err := waitLock(ctx, patience, filepath.Join(runDir, r.ns.Name+".lock"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.dir, 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("make state directory: %w", err), f.Close())
	}
	return f, nil
}

// sign tells others who holds a lock; a failure to write it changes nothing.
func sign(lock *os.File) {
	if lock.Truncate(0) == nil {
		_, _ = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
}

// waitLock is lockFile, again and again while somebody else has it.
func waitLock(ctx context.Context, patience time.Duration, path string) (*os.File, error) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := lockFile(path)
		if !errors.Is(err, ErrBusy) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-deadline.C:
			return nil, err
		case <-tick.C:
		}
	}
}

// lockFile locks the file of that name. Detach removes it while holding it, so
// a lock on what is no longer under the name is worth nothing: try again.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			defer f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%w%s", ErrBusy, holder(f))
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		ours, err := f.Stat()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("inspect lock: %w", err), f.Close())
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(ours, named) {
			return f, nil
		}
		f.Close()
	}
}

func holder(f *os.File) string {
	pid := make([]byte, 16)
	n, _ := f.ReadAt(pid, 0)
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %s)", strings.TrimSpace(string(pid[:n])))
}

// clone returns a copy that shares nothing with its original.
func (s *State) clone() *State {
	c := *s
	c.Config.Interfaces = slices.Clone(s.Config.Interfaces)
	c.Config.Uplinks = slices.Clone(s.Config.Uplinks)
	c.Config.Rules = slices.Clone(s.Config.Rules)
	c.Config.Web.Listen = slices.Clone(s.Config.Web.Listen)
	c.Config.Devices = maps.Clone(s.Config.Devices)
	c.Config.Tor.Bridges = slices.Clone(s.Config.Tor.Bridges)
	c.Config.Tor.Transports = maps.Clone(s.Config.Tor.Transports)
	c.Given.Devices = maps.Clone(s.Given.Devices)
	c.Ended = slices.Clone(s.Ended)
	c.Lists = slices.Clone(s.Lists)
	c.Cells = slices.Clone(s.Cells)
	c.Links = maps.Clone(s.Links)
	c.Sysctls = maps.Clone(s.Sysctls)
	c.Lacks = slices.Clone(s.Lacks)
	c.NoEarly = maps.Clone(s.NoEarly)
	return &c
}
