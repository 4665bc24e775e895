package router

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// What a finding may name in the place of one step.
const (
	stepAll  = "all"
	stepNone = "none" // torbpf cannot put it right
)

// finding is something that is not as the state in force has it.
type finding struct {
	step string // of apply, which puts it right
	text string
}

// findings collects what is wrong.
type findings []finding

func (f *findings) add(step, format string, args ...any) {
	*f = append(*f, finding{step, fmt.Sprintf(format, args...)})
}

// steps returns what has to be done about the findings, nil for everything: each
// step with those that rest upon it.
func (f findings) steps() []string {
	follow := map[string][]string{
		stepTor:      {stepTor, stepHandOver},
		stepHandOver: {stepHandOver},
		stepRules:    {stepRules},
		stepNFT:      {stepNFT, stepFlows},
		stepSentry:   {stepSentry},
		stepProxy:    {stepProxy},
		stepGuards:   {stepGuards, stepRules, stepPrograms, stepFlows, stepSentry, stepHandOver}, // a new generation, and perhaps new gates
		stepPrograms: {stepGuards, stepPrograms, stepFlows, stepSentry, stepHandOver},
	}
	steps := []string{stepState}
	for _, one := range f {
		if one.step == stepAll {
			return nil
		}
		steps = append(steps, follow[one.step]...)
	}
	return steps
}

// ended finds rules whose time is over. The programs know that by themselves; what is
// left is to end their connections and to forget them.
func (f *findings) ended(s *State) error {
	_, ended, err := s.activeRules()
	for _, rule := range ended {
		f.add(stepAll, "the rule for %s %s has ended", rule.Kind, rule.Entry)
	}
	return err
}

func (f findings) has(step string) bool {
	return slices.ContainsFunc(f, func(one finding) bool { return one.step == step })
}

// mendable tells whether anything can be done about the findings.
func (f findings) mendable() bool {
	return slices.ContainsFunc(f, func(one finding) bool { return one.step != stepNone })
}

// texts returns the findings in words.
func (f findings) texts() []string {
	out := make([]string, 0, len(f))
	for _, one := range f {
		out = append(out, one.text)
	}
	return out
}

// digestOf tells configurations, or plans (planDigest), apart across commands.
func digestOf(of any) (string, error) {
	text, err := json.Marshal(of)
	if err != nil {
		return "", fmt.Errorf("encode for a digest: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// planDigest tells by what is in the kernel: what put a rule there and what it is for may
// change with no packet judged otherwise.
func planDigest(p *plan.Plan) (string, error) {
	bare := *p
	bare.Rules = slices.Clone(p.Rules)
	for i := range bare.Rules {
		r := &bare.Rules[i]
		r.Origin, r.Comment, r.Runtime = "", "", false
	}
	return digestOf(&bare)
}

// inspect compares the kernel and the processes with the state in force and the
// plan that it gives on the host as it is now.
func (r *Router) inspect(s *State, p *plan.Plan, d *loader.Datapath) (findings, error) {
	if s.Blocked {
		return inspectBlock(s, p, d)
	}
	var f findings
	digest, err := planDigest(p)
	if err != nil {
		return nil, err
	}
	if err := f.ended(s); err != nil {
		return nil, err
	}
	switch {
	case s.Version != r.version:
		f.add(stepAll, "what is attached was made by torbpf %s; this is %s", s.Version, r.version)
	case s.Planned != digest && !f.has(stepAll):
		f.add(stepAll, "addresses, routes or interfaces of this host have changed since attach")
	}
	for _, look := range []func() error{
		func() error { return f.guards(s, p, d) },
		func() error { return f.attachments(s, p, d) },
		func() error { return f.early(p, d, s.NoEarly) },
		func() error { return f.rulesets(s, p) },
		func() error { return f.fastPath(s, p, d) },
		func() error { return f.flowtable(s, p) },
		func() error { return r.lists(&f, s) },
		func() error { return r.processes(&f, s) },
		func() error { return f.handsOver(p, d) },
	} {
		if err := look(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// inspectBlock is inspect while only the block is in place.
func inspectBlock(s *State, p *plan.Plan, d *loader.Datapath) (findings, error) {
	var f findings
	digest, err := planDigest(p)
	if err != nil {
		return nil, err
	}
	if s.Planned != digest {
		f.add(stepAll, "interfaces that are waited for, or uplinks, have come or gone")
	}
	missing, err := d.Missing(p)
	if err != nil {
		return nil, err
	}
	for _, name := range missing {
		if !lacks(s, name) {
			f.add(stepGuards, "no guard %s: one layer is missing", name)
		}
	}
	return f, f.rulesets(s, p)
}

// lacks tells whether this kernel cannot have a guard.
func lacks(s *State, guard string) bool {
	return slices.ContainsFunc(s.Lacks, func(text string) bool { return slices.Contains(strings.FieldsFunc(text, betweenNames), guard) })
}

// betweenNames tells what is no part of a guard's name: one may begin like another.
func betweenNames(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }

func (f *findings) rulesets(s *State, p *plan.Plan) error {
	differences, err := nft.Check(p)
	if err != nil {
		return err
	}
	for _, d := range differences {
		f.add(stepNFT, "nftables: %s", d)
	}
	if !s.wantsRules(p) {
		return nil
	}
	missing, err := route.Present(p)
	if err != nil {
		return err
	}
	for _, m := range missing {
		f.add(stepRules, "ip rule missing: %s", m)
	}
	return nil
}

func (f *findings) guards(s *State, p *plan.Plan, d *loader.Datapath) error {
	missing, err := d.Missing(p)
	if err != nil {
		return err
	}
	for _, name := range missing {
		if !lacks(s, name) {
			f.add(stepGuards, "no guard %s: one layer is missing", name)
		}
	}
	unknown, err := d.UnknownLANs(p)
	if err != nil {
		f.add(stepGuards, "the maps of torbpf are not to be found below %s: %v", d.Dir(), err)
		return nil
	}
	for _, name := range unknown {
		f.add(stepGuards, "%s is missing in the map of LANs: whatever it sends is refused", name)
	}
	return nil
}

// early finds XDP programs that are gone; those that could not be had are no finding.
func (f *findings) early(p *plan.Plan, d *loader.Datapath, without map[string]string) error {
	for _, l := range p.LANs {
		mode, err := d.Early(l.Index)
		if err != nil {
			return err
		}
		if mode != l.Early && without[l.Name] == "" {
			f.add(stepPrograms, "early refusal on %s is %s, not %s", l.Name, mode, l.Early)
		}
	}
	return nil
}

func (f *findings) attachments(s *State, p *plan.Plan, d *loader.Datapath) error {
	attachments, err := d.Attachments()
	if err != nil {
		return err
	}
	look := func(kind, name string, index int, without string) {
		i := slices.IndexFunc(attachments, func(a loader.Attachment) bool { return a.Kind == kind && a.Ifindex == index })
		switch {
		case i < 0:
			f.add(stepPrograms, "no program %s on %s: %s", kind, name, without)
		case attachments[i].Ahead > 0:
			step := stepPrograms
			if attachments[i].By == loader.ByClsact {
				step = stepNone // tcx programs run before all filters
			}
			f.add(step, "%d programs of others run before torbpf's (%s) on %s and can keep packets from it", attachments[i].Ahead, kind, name)
		}
	}
	for _, l := range p.LANs {
		look(loader.KindLAN, l.Name, l.Index, "what it sends is dropped by the guards behind it")
		look(loader.KindOut, l.Name, l.Index, "replies to connections from outside are refused")
	}
	for _, u := range p.Uplinks {
		look(loader.KindUplink, u.Name, u.Index, "one layer is missing")
		if p.Fast && u.Ethernet && s.NoFast == "" {
			look(loader.KindFast, u.Name, u.Index, "answers go the slow way")
		}
	}
	return nil
}

// lists finds maps of lists that the state knows nothing of: those of a change that was
// ended half-way.
func (r *Router) lists(f *findings, s *State) error {
	holds, err := r.holdsLists(s.Config.Clsact, s.Lists)
	if err == nil && !holds {
		f.add(stepAll, "the lists in force are not those that were read last")
	}
	return err
}

func (r *Router) processes(f *findings, s *State) error {
	if !sentry.Running(s.Sentry.PID, s.Sentry.StartTime) {
		f.add(stepSentry, "the sentry is gone: DNS over TCP is refused, and Tor's readiness is not followed")
	}
	if s.Proxy != nil && !s.Proxy.running() {
		f.add(stepProxy, "the proxy is gone")
	}
	if s.Config.Tor.Mode == config.TorSystem {
		return nil
	}
	for i := range s.tors() {
		d, err := r.findDaemon(i)
		switch {
		case err != nil:
			return err
		case d != nil:
		case s.tors() == 1:
			f.add(stepTor, "tor is gone: clients are refused")
		default:
			f.add(stepTor, "tor %d is gone: its devices use the others", i)
		}
	}
	return nil
}

// look reads the state in force and the host, and finds what is wrong. A nil
// State means that nothing is attached.
func (r *Router) look() (*State, *plan.Plan, findings, error) {
	s, err := r.loadState()
	if err != nil || s == nil {
		return nil, nil, nil, err
	}
	facts, err := host.Read()
	if err != nil {
		return s, nil, nil, fmt.Errorf("read the host: %w", err)
	}
	now := s.clone()
	now.followRenames(facts)
	p, err := r.planFor(now, facts)
	if err != nil {
		return s, nil, nil, fmt.Errorf("the host no longer fits the configuration: %w", err)
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return s, nil, nil, err
	}
	found, err := r.inspect(s, p, d)
	return s, p, found, err
}
