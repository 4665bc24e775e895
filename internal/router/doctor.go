package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// DoctorOptions say what to look at.
type DoctorOptions struct {
	// Interfaces are looked at as if they were LANs, beside those that are, and where nothing is
	// attached beside those of the File. Where that makes none, all that could be are.
	Interfaces []string
	File       string // the configuration; "" for none
}

// Doctor looks at this host, and at what is attached, as attach would, and changes nothing: no
// packet is sent, and what the kernel can do is tried in a network namespace that goes at once.
// Neighbours are judged by what the kernel has seen of them already.
func (r *Router) Doctor(ctx context.Context, o DoctorOptions) (*doctor.Report, error) {
	g, err := r.gather(ctx, o)
	if err != nil {
		return nil, err
	}
	return doctor.Examine(&g.facts), nil
}

// gathering is how the facts of a host come together.
type gathering struct {
	*Router
	state    *State // of what is attached, or would be
	inForce  bool   // it is that of what is attached
	facts    doctor.Facts
	datapath *loader.Datapath // nil where its pins cannot be reached
	others   *nft.Others      // none where they could not be read
}

func (r *Router) gather(ctx context.Context, o DoctorOptions) (*gathering, error) {
	g := &gathering{Router: r, others: &nft.Others{}, facts: doctor.Facts{
		Root: os.Geteuid() == 0, Advice: make(map[string][]doctor.Advice), Unread: make(map[string]error),
	}}
	if err := g.choose(o); err != nil {
		return nil, err
	}
	var err error
	if g.facts.Host, err = host.Read(); err != nil {
		return nil, fmt.Errorf("read the host: %w", err)
	}
	g.state.followRenames(g.facts.Host)
	if err := g.planEach(o.Interfaces); err != nil {
		return nil, err
	}
	if g.inForce {
		g.findPins()
	}
	g.askKernel()
	if p := g.facts.Plan; p != nil {
		g.advise(p)
		g.lookAtPrograms(p)
		g.lookAtNeighbours(p)
		g.lookAtFirewall(p)
		g.lookAtListeners(p)
		g.lookAtFastPath(p)
	}
	g.askTor(ctx)
	if g.inForce {
		g.askStatus(ctx)
		g.lookAtBoot(ctx, o.File)
	}
	return g, nil
}

// unread notes that checks could not look.
func (g *gathering) unread(err error, checks ...string) {
	if err == nil {
		return
	}
	for _, id := range checks {
		if g.facts.Unread[id] == nil {
			g.facts.Unread[id] = err
		}
	}
}

// choose finds the configuration to judge: what is in force, or would be.
func (g *gathering) choose(o DoctorOptions) error {
	s, err := g.loadState()
	if errors.Is(err, fs.ErrPermission) {
		g.unread(fmt.Errorf("whether anything is attached: %w", ErrPrivilege), doctor.CheckLayers, doctor.CheckAlarms, doctor.CheckTorReady)
		s, err = nil, nil
	}
	if err != nil {
		return err
	}
	if s != nil {
		g.state, g.inForce, g.facts.Attached = s.clone(), true, true
		return nil
	}
	g.state = &State{Config: config.Default()}
	if o.File == "" {
		return nil
	}
	cfg, err := config.Load(o.File)
	if o.File == config.DefaultFile && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return nil
	}
	if err == nil {
		g.state.Config = cfg
	}
	return err
}

// planEach finds out of each interface whether it could be a LAN, and plans for those that could.
func (g *gathering) planEach(asked []string) error {
	names := append(slices.Clone(g.state.Config.Interfaces), asked...)
	if len(names) == 0 && !g.state.Config.Client.Enable {
		names = plan.Candidates(g.state.Config, g.facts.Host)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		if config.IsPattern(name) {
			g.facts.Fit = append(g.facts.Fit, name)
			continue
		}
		fit, err := g.fits(name)
		if err != nil {
			return err
		}
		if fit {
			g.facts.Fit = append(g.facts.Fit, name)
		}
	}
	g.facts.Interfaces = names
	s := g.state
	g.facts.Config = s.Config
	if len(names) > 0 && len(g.facts.Fit) == 0 {
		return nil // which has been told of each
	}
	s.Config.Interfaces, s.Config.Wait = g.facts.Fit, s.Config.Wait && g.inForce
	p, err := g.planFor(s, g.facts.Host)
	if err := g.refused(err); err != nil {
		return err
	}
	g.facts.Plan, g.facts.Config = p, s.Config
	return nil
}

// fits tells whether an interface could be a LAN, alone.
func (g *gathering) fits(name string) (bool, error) {
	alone := g.state.clone()
	alone.Config.Interfaces, alone.Config.Wait = []string{name}, false
	_, err := g.planFor(alone, g.facts.Host)
	return err == nil, g.refused(err)
}

// refused notes what planning refuses; another error is none of a host's.
func (g *gathering) refused(err error) error {
	var refusal *plan.Refusal
	if errors.As(err, &refusal) {
		g.facts.Refusals = append(g.facts.Refusals, refusal)
		return nil
	}
	return err
}

// findPins opens what is pinned, and mounts nothing.
func (g *gathering) findPins() {
	root, err := loader.Find(bpfDir)
	if err != nil {
		g.facts.Kernel.Pins = err
		return
	}
	g.datapath = loader.Open(loader.Options{Root: root, Namespace: g.ns.Name, Clsact: g.state.Config.Clsact})
}

// pins are those of what is attached, or none.
func (g *gathering) pins() *loader.Datapath {
	if g.datapath != nil {
		return g.datapath
	}
	return loader.Open(loader.Options{Root: bpfDir, Namespace: g.ns.Name})
}

func (g *gathering) askKernel() {
	k := &g.facts.Kernel
	var err error
	if k.Release, err = host.Release(); err != nil {
		g.unread(err, doctor.CheckKernelBPF)
	}
	k.BTF = host.HasBTF()
	if k.BPFFS, err = host.HasBPFFS(); err != nil {
		k.BPFFS = true // nobody knows better
	}
	if g.facts.Root {
		k.Forward, k.BPF = loader.CanGuardForward()
	} else {
		g.unread(ErrPrivilege, doctor.CheckKernelBPF, doctor.CheckKernelNFT)
	}
	if g.inForce {
		k.Lacks = g.state.Lacks
	}
	p := g.facts.Plan
	if p == nil || !g.facts.Root {
		return
	}
	if k.BPF == nil {
		k.BPF = loader.CanLoad(p)
	}
	k.NFT = elsewhere(func() error { return nft.Apply(p) })
	g.facts.RulesAhead, err = host.RulesAhead()
	g.unread(err, doctor.CheckIPRules)
}

// advise has everything told that attach would warn of.
func (g *gathering) advise(p *plan.Plan) {
	s := g.state
	a := g.facts.Advice
	a[doctor.CheckUplink] = uplinkAdvice(s, p)
	a[doctor.CheckForward] = forwardingAdvice(s)
	a[doctor.CheckAnswers] = handOverAdvice(p)
	a[doctor.CheckContainer] = besideAdvice(p)
	a[doctor.CheckVPN] = wgQuickAdvice(s, p)
	a[doctor.CheckTime] = timeAdvice(nil, p)
	a[doctor.CheckClient] = clientAdvice(p, s.Config.Everything)
	a[doctor.CheckPage] = pageAdvice(s, p)
	a[doctor.CheckRules] = slices.Concat(wideAdvice(p), exitAdvice(s, p))
	for _, text := range cautions(p.AllRules(), p) {
		a[doctor.CheckRules] = append(a[doctor.CheckRules], doctor.Advise(text))
	}
	var before *State
	if g.inForce {
		before = s
	}
	if err := g.checkPorts(before, s, p); err != nil {
		for _, one := range errorsOf(err) {
			a[doctor.CheckPorts] = append(a[doctor.CheckPorts], doctor.Advised(one))
		}
	}
}

// errorsOf takes apart what errors.Join has joined.
func errorsOf(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func (g *gathering) lookAtPrograms(p *plan.Plan) {
	var err error
	if g.facts.Flowtables, err = nft.Flowtables(); err != nil {
		g.unread(g.explained(err), doctor.CheckFlowtable)
	}
	for _, l := range p.LANs {
		strangers, err := g.pins().Strangers(l.Index)
		if err != nil {
			g.unread(g.explained(err), doctor.CheckPrograms)
			return
		}
		for _, what := range strangers {
			g.facts.Programs = append(g.facts.Programs, plan.Program{Index: l.Index, What: what})
		}
	}
}

// explained says of what could not be read without root that it is root's to read.
func (g *gathering) explained(err error) error {
	if err != nil && !g.facts.Root {
		return ErrPrivilege
	}
	return err
}

func (g *gathering) lookAtNeighbours(p *plan.Plan) {
	found, err := host.OtherRouters(p.LANIndices())
	if err != nil {
		g.unread(err, doctor.CheckRouters)
		return
	}
	for _, router := range found {
		one := doctor.OtherRouter{Addr: router.Addr, How: "it says so of itself (the flag of its neighbour advertisements)"}
		if router.Route {
			one.How = "this machine has a default route by it"
		}
		if router.MAC != (config.MAC{}) {
			one.MAC = router.MAC.String()
		}
		if l, ok := g.facts.Host.LinkByIndex(router.Index); ok {
			one.LAN = l.Name
		}
		g.facts.Routers = append(g.facts.Routers, one)
	}
}

func (g *gathering) lookAtFastPath(p *plan.Plan) {
	if p.Flowtable {
		g.lookAtFlowtable(p)
	}
	if !p.Fast {
		return
	}
	h, err := fastHost(g.pins(), p, g.facts.Flowtables)
	if err != nil {
		g.unread(g.explained(err), doctor.CheckFastPath)
		return
	}
	h.Strict = h.Strict && g.inForce // attach sets it
	g.facts.FastOff = p.InFastPath(h)
	if g.state.NoFast != "" {
		g.facts.FastOff = append(g.facts.FastOff, g.state.NoFast)
	}
}

func (g *gathering) lookAtFlowtable(p *plan.Plan) {
	why, err := inFlowtable(p)
	if err != nil {
		g.unread(g.explained(err), doctor.CheckFastPath)
		return
	}
	g.facts.FastOff = why
	if err := elsewhere(nft.TryFlowtable); err != nil {
		g.facts.FastOff = append(g.facts.FastOff, err.Error())
	}
}

// askStatus takes over what `torbpf status` says.
func (g *gathering) askStatus(ctx context.Context) {
	if g.facts.Kernel.Pins != nil {
		g.unread(g.facts.Kernel.Pins, doctor.CheckLayers, doctor.CheckAlarms, doctor.CheckTorReady)
		return
	}
	s, err := g.Status(ctx)
	if err != nil {
		g.unread(err, doctor.CheckLayers, doctor.CheckAlarms, doctor.CheckTorReady)
		return
	}
	g.facts.Status = doctor.Status{
		Problems: s.Problems, Stopped: s.Stopped, Alive: s.Tor.Alive, Ready: s.Ready, Blocked: g.state.Blocked,
		Percent: s.Tor.Percent, Summary: s.Tor.Summary, OwnDNS: s.OwnDNS,
	}
	if s.Tor.Version != "" {
		g.facts.Tor.Version = s.Tor.Version
	}
}

// built is when this program was, as far as it says so.
func built() time.Time {
	path, err := os.Executable()
	if err != nil {
		return time.Time{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
