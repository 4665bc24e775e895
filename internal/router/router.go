// Package router knows the order of things: what attach puts in place first so
// that no instant is open, what is undone when a step fails, and what detach
// takes away last. The parts it joins (loader, nft, tor, internal/route,
// internal/host, internal/sentry) do not know one another.
//
// The order up, each step closed by the one before it:
//
//	tor       start the managed tor, or find the system's
//	guards    uplink programs, forward and DNS guard: nothing of a LAN leaves unmarked
//	rules     ip rules where the kernel cannot have the forward guard, or for the hand-over
//	nft       redirects, and the forward and input guards
//	firewall  a probe: does the host's own firewall let diverted packets in?
//	programs  the tc programs of the LANs: from here on flows reach Tor
//	cut       connections older than all this end
//	sentry    the unprivileged process that opens the gates of tors that are ready
//	former    tors that the plan has no more end: nobody is sent to them now
//	proxy     in client mode, and if asked for: the way past Tor for who chooses it
//	hand-over with tcp_mode "tproxy": from here on flows reach tor's own sockets
//
// Everything is pinned or belongs to the kernel or to a process that outlives
// the command. The state file says what is there; it is written before the
// first step, so that detach can remove what a killed attach left.
package router

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// Errors that a caller tells apart, beside those of internal/plan.
var (
	ErrNotAttached = errors.New("not attached")
	ErrPrivilege   = errors.New("this needs root: run it with sudo")
	ErrBusy        = errors.New("another torbpf is at work in this network namespace")
)

const (
	runDir  = "/run/torbpf"
	dataDir = "/var/lib/torbpf"
	bpfDir  = runDir + "/bpf"
)

// Router is torbpf in the network namespace of the calling thread.
type Router struct {
	ns      host.NS
	dir     string // run-time state: /run/torbpf/<namespace>
	data    string // what Tor keeps across reboots
	version string
	notify  func(string) // one line of progress

	seen  seen   // by Mend
	gates []bool // as Mend saw them last, see moveQuestions
	own   bool   // Mend has seen a state that this version wrote
	fast  fastWatch

	// fail lets a test make a step fail after it was done.
	fail func(step string) error
}

// Options configure a Router.
type Options struct {
	Version string       // of this program, for the state file
	Notify  func(string) // gets lines of progress; nil discards them
}

// New returns the Router of the calling thread's network namespace.
func New(o Options) (*Router, error) {
	ns, err := host.Namespace()
	if err != nil {
		return nil, err
	}
	r := &Router{
		ns:      ns,
		dir:     filepath.Join(runDir, ns.Name),
		data:    filepath.Join(dataDir, ns.Name),
		version: o.Version,
		notify:  o.Notify,
		fail:    func(string) error { return nil },
	}
	if ns.Name != host.FirstNamespace {
		// A namespace ends with the machine's uptime at the latest, and so
		// may what its tor remembers.
		r.data = filepath.Join(r.dir, "data")
	}
	if r.notify == nil {
		r.notify = func(string) {}
	}
	return r, nil
}

// PinDir returns where the BPF pins of this namespace are, for bpftool.
func (r *Router) PinDir() string { return filepath.Join(bpfDir, r.ns.Name) }

// datapath opens the BPF side, mounting its bpffs if need be.
func (r *Router) datapath(clsact bool) (*loader.Datapath, error) {
	root, err := loader.Mount(bpfDir)
	if err != nil {
		return nil, err
	}
	return loader.Open(loader.Options{Root: root, Namespace: r.ns.Name, Clsact: clsact}), nil
}

// makePlan reads the host and plans for the configuration of the state. The
// .onion ranges that were chosen once stay as long as they miss every local
// route, since devices remember the addresses they were given.
func (r *Router) makePlan(s *State) (*plan.Plan, error) {
	facts, err := host.Read()
	if err != nil {
		return nil, fmt.Errorf("read the host: %w", err)
	}
	s.followRenames(facts)
	return r.planFor(s, facts)
}

// linksOf names the interfaces that a plan attaches to. The state takes them
// only when all is done: a LAN of an attach that was killed half-way counts as
// new to the next one, which then takes a new LAN's precautions again.
func linksOf(p *plan.Plan) map[string]int {
	links := make(map[string]int)
	for _, l := range p.LANs {
		links[l.Name] = l.Index
	}
	return links
}

// followRenames puts the new name of an interface that was renamed since into
// the configuration: its programs are still attached, and the rules that go by
// name must find it. A name that is merely missing stays; it may come back.
func (s *State) followRenames(facts plan.Host) {
	for i, name := range s.Config.Interfaces {
		index, known := s.Links[name]
		link, there := facts.LinkByIndex(index)
		if !known || !there || link.Name == name {
			continue
		}
		if _, taken := facts.LinkByName(name); taken {
			s.Config.Interfaces = append(s.Config.Interfaces, link.Name) // both are LANs now
			continue
		}
		s.Config.Interfaces[i] = link.Name
	}
	slices.Sort(s.Config.Interfaces)
	s.Config.Interfaces = slices.Compact(s.Config.Interfaces)
}

// lanIndices are the indices of the interfaces that are attached.
func (s *State) lanIndices() []int { return slices.Collect(maps.Values(s.Links)) }

func (r *Router) planFor(s *State, facts plan.Host) (*plan.Plan, error) {
	cfg := s.Config
	active, _, err := s.activeRules()
	if err != nil {
		return nil, err
	}
	cfg.Rules = active.Planned()
	if err := s.identify(&facts, r.ns.Name, active.OfClient()); err != nil {
		return nil, err
	}
	facts.Torified = s.lanIndices()
	if !cfg.Tor.Onion4.IsValid() && config.OnionFits(s.Onion4, cfg.Tor.Instances.Most()) {
		cfg.Tor.Onion4 = s.Onion4
	}
	if !cfg.Tor.Onion6.IsValid() && config.OnionFits(s.Onion6, cfg.Tor.Instances.Most()) {
		cfg.Tor.Onion6 = s.Onion6
	}
	p, err := plan.Make(cfg, facts)
	if errors.Is(err, plan.ErrOnionRouted) {
		cfg.Tor = s.Config.Tor
		p, err = plan.Make(cfg, facts)
	}
	if err != nil {
		return nil, err
	}
	if len(active.Of(config.KindInterface)) > 0 {
		via := p.Mark.Class(uint32(abi.VerdictVia))
		facts.Ways, facts.OwnWays = host.Ways(p.LANs, via), host.OwnWays(via)
		if p, err = plan.Make(cfg, facts); err != nil {
			return nil, err
		}
	}
	s.Onion4, s.Onion6, s.Instances = p.Onion4, p.Onion6, p.Instances
	p.Lists = s.plannedLists(active)
	return p, nil
}

func requireRoot() error {
	if os.Geteuid() != 0 {
		return ErrPrivilege
	}
	return nil
}
