package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// statusSchema numbers the shape of Status in JSON.
const statusSchema = 1

// controlPatience bounds how long status waits for a tor that may hang.
const controlPatience = 3 * time.Second

// lastGuards are the reasons of what only a last guard stopped.
var lastGuards = []abi.Reason{abi.ReasonForwardGuard, abi.ReasonUplinkGuard, abi.ReasonClientGuard, abi.ReasonDNSGuard, abi.ReasonDeliveryGuard}

// Status is what torbpf does in one network namespace, read from the kernel's
// own tables and from tor.
type Status struct {
	Schema     int               `json:"schema"`
	Namespace  string            `json:"namespace"`
	Pins       string            `json:"pins"` // folder of the BPF pins, for bpftool
	Interfaces []InterfaceStatus `json:"interfaces"`
	Waiting    []string          `json:"waiting"` // interfaces that are blocked until they are there
	Unfit      []string          `json:"unfit"`   // why, of each that is waited for by its whole name
	Uplinks    []InterfaceStatus `json:"uplinks"`
	Client     bool              `json:"client"` // what this machine itself sends is on Tor
	// OwnTraffic is what it has sent so, by fate; "tor_itself" is what tor has for all that it carries.
	OwnTraffic map[string]loader.Traffic `json:"own_traffic"`
	Exec       []ExecStatus              `json:"exec"`
	ProxyPort  uint16                    `json:"proxy_port"` // of the proxy past Tor; 0: there is none
	Fast       FastStatus                `json:"fastpath"`
	Tor        TorStatus                 `json:"tor"`
	Ready      bool                      `json:"ready"`  // Tor is, and the gate is open: else clients are refused
	Sentry     bool                      `json:"sentry"` // alive: it opens and closes the gate, and answers DNS over TCP
	Rules      config.Rules              `json:"rules"`
	Resolver   netip.Addr                `json:"resolver"` // asked for excluded names, in clear; "" for none
	Lists      []ListStatus              `json:"lists"`    // that rules name
	Counters   []CounterStatus           `json:"counters"`
	Guards     []nft.Drop                `json:"guards"`  // what the nftables guards dropped
	Stopped    uint64                    `json:"stopped"` // packets that only the last guards stopped since the last change; 0 is how it should be
	// OwnDNS counts the packets by which the router itself asked for names by an
	// uplink: no LAN's, but they tell of the household all the same.
	OwnDNS   uint64   `json:"own_dns"`
	Lacks    []string `json:"lacks"`    // layers that this kernel cannot have
	Problems []string `json:"problems"` // parts that are missing or changed; attaching again puts them right
	Warnings []string `json:"warnings"` // what is as it was asked for, and should be known
}

// InterfaceStatus is a LAN or an uplink.
type InterfaceStatus struct {
	Name       string `json:"name"`
	Index      int    `json:"index"`
	AttachedBy string `json:"attached_by"` // "tcx", "clsact" or "" for not at all
	// Early tells where floods of refused packets end: "native", in the driver, "generic",
	// or "off", where all refusals are made; WhyNot says why there.
	Early  string `json:"early_refusal,omitempty"`
	WhyNot string `json:"early_refusal_off,omitempty"`
}

// CounterStatus is one counter of the tc programs and guards.
type CounterStatus struct {
	Interface string `json:"interface"`
	Verdict   string `json:"verdict"`
	Reason    string `json:"reason"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}

// Status reads everything; it changes nothing and takes no lock.
func (r *Router) Status(ctx context.Context) (*Status, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	facts, err := host.Read()
	if err != nil {
		return nil, fmt.Errorf("read the host: %w", err)
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return nil, err
	}
	rules, _, err := s.activeRules()
	if err != nil {
		return nil, err
	}
	status := &Status{
		Schema:    statusSchema,
		Namespace: r.ns.Name,
		Pins:      r.PinDir(),
		Rules:     append(config.Rules{}, rules...),
		Resolver:  s.Config.Resolver,
		Client:    s.Config.Client.Enable,
		ProxyPort: s.proxyPort(),
		Sentry:    sentry.Running(s.Sentry.PID, s.Sentry.StartTime),
		Lacks:     append([]string{}, s.Lacks...),
		// A list without entries is [] in JSON, not null.
		Interfaces: []InterfaceStatus{}, Waiting: []string{}, Unfit: []string{}, Uplinks: []InterfaceStatus{},
		Counters: []CounterStatus{}, Warnings: []string{},
	}
	if err := status.readState(r, s); err != nil {
		return nil, err
	}
	status.Tor = r.torStatus(ctx, s, d)
	s.followRenames(facts)
	p, err := r.planFor(s, facts)
	planned := err == nil
	if !planned {
		status.problem("the host no longer fits the configuration: %v", err)
		p = plan.Block(s.Config)
	} else {
		status.Tor.plan(p)
	}
	status.Waiting = append(status.Waiting, p.Waiting...)
	status.Waiting = append(status.Waiting, p.Patterns...)
	status.Unfit = append(status.Unfit, p.Unfit...)
	if err := status.readKernel(d, facts, p, s); err != nil || !planned {
		return status, err
	}
	found, err := r.inspect(s, p, d)
	if err != nil {
		return nil, err
	}
	status.Problems = append(status.Problems, found.texts()...)
	status.Ready = slices.ContainsFunc(status.Tor.Instances, func(t TorInstance) bool { return t.Ready })
	status.Warnings = append(status.Warnings, r.warnings(s, p)...)
	status.judge(s)
	return status, nil
}

// readState reads what the state alone leads to.
func (s *Status) readState(r *Router, state *State) error {
	var err error
	if s.Lists, err = state.listStatus(); err != nil {
		return err
	}
	if s.Problems, err = state.listProblems(); err != nil {
		return err
	}
	s.Exec, err = r.execStatus(state)
	return err
}

// AttachedNames lists the interfaces that are attached, or waited for.
func (r *Router) AttachedNames() ([]string, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	return s.Config.Interfaces, nil
}

func (s *Status) problem(format string, args ...any) {
	s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
}

// stoppedIn sums up what only the last guards stopped.
func stoppedIn(counters []loader.Counter) uint64 {
	var stopped uint64
	for _, c := range counters {
		if slices.Contains(lastGuards, c.Reason) {
			stopped += c.Packets
		}
	}
	return stopped
}

// readKernel compares what there is with the plan; the state in force knows what the last
// guards had stopped before.
func (s *Status) readKernel(d *loader.Datapath, facts plan.Host, p *plan.Plan, inForce *State) error {
	counters, err := d.Counters()
	if err != nil {
		return err
	}
	for _, c := range counters {
		if c.Reason == abi.ReasonOwnDNS {
			s.OwnDNS += c.Packets
		}
		s.Counters = append(s.Counters, CounterStatus{
			Interface: linkName(facts, int(c.Ifindex)),
			Verdict:   c.Verdict.String(),
			Reason:    c.Reason.String(),
			Packets:   c.Packets,
			Bytes:     c.Bytes,
		})
	}
	if stopped := stoppedIn(counters); stopped > inForce.Stopped {
		s.Stopped = stopped - inForce.Stopped
	}
	if s.Guards, err = nft.Drops(); err != nil {
		return err
	}
	if s.OwnTraffic, err = ownTraffic(readBehind(counters, p).since(inForce.Behind)); err != nil {
		return err
	}
	attachments, err := d.Attachments()
	if err != nil {
		return err
	}
	for _, l := range p.LANs {
		s.Interfaces = append(s.Interfaces, interfaceStatus(attachments, loader.KindLAN, l.Name, l.Index))
	}
	for _, u := range p.Uplinks {
		s.Uplinks = append(s.Uplinks, interfaceStatus(attachments, loader.KindUplink, u.Name, u.Index))
	}
	if err := s.readFast(d, p, inForce); err != nil {
		return err
	}
	return s.readEarly(d, p, inForce.NoEarly)
}

// readEarly says where floods end; without is why the kernel has refused a program.
func (s *Status) readEarly(d *loader.Datapath, p *plan.Plan, without map[string]string) error {
	for i, l := range p.LANs {
		mode, err := d.Early(l.Index)
		if err != nil {
			return err
		}
		s.Interfaces[i].Early = mode.String()
		if mode == plan.EarlyOff {
			s.Interfaces[i].WhyNot = cmp.Or(l.NotEarly, without[l.Name])
		}
		if l.Early != plan.EarlyOff && mode == plan.EarlyOff && without[l.Name] != "" {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s has no early refusal, so a flood costs more: %s", l.Name, without[l.Name]))
		}
	}
	return nil
}

func interfaceStatus(attachments []loader.Attachment, kind, name string, index int) InterfaceStatus {
	status := InterfaceStatus{Name: name, Index: index}
	for _, a := range attachments {
		if a.Kind == kind && a.Ifindex == index {
			status.AttachedBy = a.By
		}
	}
	return status
}

// judge adds what only status looks at.
func (s *Status) judge(state *State) {
	if state.Blocked {
		s.problem("nothing is attached yet: what is waited for is blocked until `torbpf run` attaches it, see its log")
		return
	}
	if !s.Tor.Alive {
		s.problem("tor does not answer: clients are refused")
	}
}

func linkName(facts plan.Host, index int) string {
	if l, ok := facts.LinkByIndex(index); ok {
		return l.Name
	}
	return fmt.Sprintf("if%d", index)
}

// ErrStopped reports packets that only the last guards stopped.
var ErrStopped = errors.New("packets got as far as the last guards")
