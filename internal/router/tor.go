package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/tor"
)

// loopback may ask Tor as well: the sentry does, from an address of 127/8 for
// each device, so that devices share no circuit.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// foundTor is what findTor learned of the tor to be used.
type foundTor struct {
	daemons []*tor.Daemon  // managed ones that run already, by instance; nil where there is none
	system  *tor.SystemTor // the user's own; nil for a managed one
	group   uint32         // whose members may read the control cookie
}

const sentryName = "sentry.log"

func (r *Router) sentryLog() string { return filepath.Join(r.dir, sentryName) }

// findTor looks at the tor to be used before anything is planned: a system tor
// brings its own ports and .onion ranges into the configuration.
func (r *Router) findTor(ctx context.Context, s *State) (*foundTor, error) {
	if s.Config.Tor.Mode == config.TorSystem {
		return findSystemTor(ctx, s)
	}
	account, err := tor.LookupAccount()
	if err != nil {
		return nil, err
	}
	s.TorUser = account.UID
	daemons, err := r.findDaemons()
	if err != nil {
		return nil, err
	}
	if s.TorGroup, err = r.torGroup(s.Config, daemons[0]); err != nil {
		return nil, err
	}
	return &foundTor{daemons: daemons, group: account.GID}, nil
}

func findSystemTor(ctx context.Context, s *State) (*foundTor, error) {
	s.TorGroup = ""
	if err := s.Config.Validate(); err != nil {
		return nil, err // before a tor is looked for that may not be there
	}
	t := &s.Config.Tor
	system, err := tor.System(ctx, t.Control, tor.Options{
		Ports:  plan.Ports{Trans: t.TransPort, DNS: t.DNSPort, Resolver: t.ResolverPort},
		TProxy: t.TCPMode == config.TCPTProxy,
	})
	// What it lacks is told when it is known whom it must serve: all at once.
	var unfit *tor.UnfitError
	if err != nil && !errors.As(err, &unfit) {
		return nil, err
	}
	t.Control = system.Address
	t.TransPort, t.DNSPort = system.Ports.Trans, system.Ports.DNS
	t.Onion4, t.Onion6 = system.Onion4, system.Onion6
	if err := s.noteTorUser(system.PID); err != nil {
		return nil, err
	}
	group, err := controlGroup(system.Address)
	return &foundTor{system: system, group: group}, err
}

// controlGroup returns the group that may talk to a system tor: that of its
// control socket, or of tor's account where the port is TCP.
func controlGroup(address string) (uint32, error) {
	var socket unix.Stat_t
	if strings.HasPrefix(address, "/") {
		if err := unix.Stat(address, &socket); err != nil {
			return 0, fmt.Errorf("inspect control socket %s: %w", address, err)
		}
		if socket.Gid != 0 {
			return socket.Gid, nil
		}
	}
	account, err := tor.LookupAccount()
	return account.GID, err
}

// torOptions are those of one of the tors of a plan.
func (r *Router) torOptions(s *State, p *plan.Plan, instance int) tor.Options {
	allow := slices.Concat(p.LANPrefixes(), loopback)
	t := p.Tors()[instance]
	return tor.Options{
		Dir:        r.torDir(instance),
		DataDir:    filepath.Join(r.data, torName(instance)),
		Beside:     instance > 0,
		Binary:     s.Config.Tor.Binary,
		Ports:      plan.Ports{Trans: t.Trans, DNS: t.DNS, Resolver: p.Ports.Resolver},
		TProxy:     p.TProxy,
		Onion4:     t.Onion4,
		Onion6:     t.Onion6,
		AllowFrom:  allow,
		ExtraTorrc: s.Config.Tor.Torrc,
		Bridges:    s.Config.Tor.Bridges,
		Transports: s.Config.Tor.Transports,
	}
}

// startTors starts the managed tors or brings them up to date. A system tor is
// only ever asked.
func (j *job) startTors(ctx context.Context) error {
	if j.state.Config.Tor.Mode == config.TorSystem {
		ctx, cancel := j.bounded(ctx, torStarts)
		defer cancel()
		// Only now is it known whom it must serve.
		if _, err := tor.System(ctx, j.tor.system.Address, j.torOptions(j.state, j.plan, 0)); err != nil {
			return err
		}
		return j.stopTors(ctx, 0) // the managed ones, if the mode has just changed
	}
	if err := os.MkdirAll(j.data, 0o711); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	tors := len(j.plan.Tors())
	var errs []error
	for i := range tors {
		err := j.bringTor(ctx, i)
		if err != nil && tors > 1 {
			err = fmt.Errorf("tor %d: %w", i, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bringTor starts one of the managed tors, or brings it up to date.
func (j *job) bringTor(ctx context.Context, instance int) error {
	options := j.torOptions(j.state, j.plan, instance)
	daemon := j.tor.daemons[instance]
	var err error
	if daemon != nil && daemon.Alive() {
		ctx, cancel := j.bounded(ctx, torAnswers)
		defer cancel()
		_, err = daemon.Update(ctx, options)
	} else {
		ctx, cancel := j.bounded(ctx, torStarts)
		defer cancel()
		daemon, err = j.newTor(ctx, options)
	}
	if err != nil || !j.state.Config.Client.Enable {
		return err
	}
	group, err := j.group(groupTor)
	if err != nil {
		return err
	}
	return group.Add(daemon.PID())
}

// newTor starts a tor, in client mode in a control group of its own: by its sockets' it is
// told from all others, and asks where a connection was to go.
func (j *job) newTor(ctx context.Context, options tor.Options) (*tor.Daemon, error) {
	group, err := j.openGroup(j.state.Config, groupTor)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	options.Cgroup = group
	return tor.Start(ctx, options)
}

// startSentry replaces the sentry by one for this plan. Between the two the
// gate stays as it was.
func (j *job) startSentry(ctx context.Context) error {
	if j.torErr != nil && j.tor.group == 0 {
		return nil // whose group it is to be in is not known before tor is found
	}
	before := j.recallAll(ctx)
	if err := stopSentry(j.state); err != nil {
		return err
	}
	memory, err := j.listenMemory()
	if err != nil {
		return err
	}
	defer memory.Close()
	log, err := newLog(j.sentryLog())
	if err != nil {
		return fmt.Errorf("open the sentry's log: %w", err)
	}
	defer log.Close()
	gates, err := j.datapath.Gates()
	if err != nil {
		return err
	}
	defer gates.Close()
	slots, err := j.datapath.DomainSlots()
	if err != nil {
		return err
	}
	defer slots.Close()
	askers, err := j.datapath.Askers()
	if err != nil {
		return err
	}
	defer askers.Close()
	group, err := j.openGroup(j.state.Config, groupSentry)
	if err != nil {
		return err
	}
	defer group.Close()
	pid, started, err := sentry.Spawn(sentry.SpawnOptions{
		Cgroup: group,
		Args:   []string{"sentry"},
		Config: sentry.Config{
			Tors:          j.watchedTors(before),
			ResolverPort:  j.plan.Ports.Resolver,
			LANPrefixes:   j.plan.LANPrefixes(),
			LANs:          j.plan.LANNames(),
			OnionPrefixes: []netip.Prefix{j.plan.Onion4, j.plan.Onion6},
			Domains:       domainsOf(j.plan),
			Resolver:      j.plan.Resolver,
		},
		Gates:  gates.FD(),
		Slots:  slots.FD(),
		Askers: askers.FD(),
		Memory: memory,
		Log:    log,
		Group:  j.tor.group,
	})
	if err != nil {
		return err
	}
	j.state.Sentry = Process{PID: pid, StartTime: started}
	return nil
}

// domainsOf lists the names that are excluded.
func domainsOf(p *plan.Plan) []sentry.Domain {
	var out []sentry.Domain
	for _, rule := range p.Rules.Of(config.KindDomain) {
		out = append(out, sentry.Domain{Name: rule.Domain, Ends: rule.Ends})
	}
	return out
}

// stopSentry ends the sentry of a state, if there is one.
func stopSentry(s *State) error {
	if s.Sentry.PID == 0 {
		return nil
	}
	if err := sentry.Stop(s.Sentry.PID, s.Sentry.StartTime); err != nil {
		return err
	}
	s.Sentry = Process{}
	return nil
}

// isOurs tells whether a process is the tor or the sentry of a state.
func (r *Router) isOurs(s *State, pid int) bool {
	if s == nil || pid == 0 {
		return false
	}
	if pid == s.Sentry.PID && sentry.Running(pid, s.Sentry.StartTime) {
		return true
	}
	if s.Config.Tor.Mode == config.TorSystem {
		return false
	}
	daemons, err := r.findDaemons()
	return err == nil && slices.ContainsFunc(daemons, func(d *tor.Daemon) bool { return d != nil && d.PID() == pid })
}

// Served tells whether a tor is ready and its gate open, so that clients are not refused; known
// is false where nothing is attached, or the gates cannot be read now.
func (r *Router) Served() (served, known bool) {
	s, err := r.loadState()
	if err != nil || s == nil || s.Blocked {
		return false, false
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return false, false
	}
	open, err := d.GatesOpen(s.tors())
	return slices.Contains(open, true), err == nil
}
