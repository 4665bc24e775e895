package router

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/internal/sockets"
	"github.com/torbpf/torbpf/nft"
)

// clientWords stand for what this machine itself sends, among the names of interfaces.
const clientWords = "this machine"

// names lists what a state has on Tor, or blocks.
func (s *State) names() []string { return withClient(s.Config, s.Config.Interfaces) }

// whom is names in words.
func (s *State) whom() string { return joinNames(s.names()) }

// OnTor is what is on Tor.
type OnTor struct {
	Interfaces []string `json:"interfaces"` // the devices behind them
	Client     bool     `json:"client"`     // what this machine itself sends
}

func (s *State) onTor() OnTor {
	return OnTor{append([]string{}, s.Config.Interfaces...), s.Config.Client.Enable}
}

// String lists it; "" for nothing.
func (o OnTor) String() string {
	names := o.Interfaces
	if o.Client {
		names = append(slices.Clone(names), clientWords)
	}
	return joinNames(names)
}

// withClient adds this machine to the names of interfaces, where it is to be on Tor.
func withClient(cfg config.Config, interfaces []string) []string {
	return wordsOf(interfaces, cfg.Client.Enable)
}

// wordsOf is what there is to say of interfaces, and of this machine itself.
func wordsOf(interfaces []string, client bool) []string {
	if !client {
		return interfaces
	}
	return append(slices.Clone(interfaces), clientWords)
}

// unused tells whether nothing is to be on Tor any more. What exec runs direct has no
// meaning without client mode.
func (s *State) unused() bool {
	return len(s.Config.Interfaces) == 0 && !s.Config.Client.Enable &&
		!slices.ContainsFunc(s.Cells, func(c Cell) bool { return c.Policy == config.PolicyTor })
}

// usesClient tells whether the programs of client mode are there.
func (s *State) usesClient() bool { return s.Config.Client.Enable || len(s.Cells) > 0 }

// identify finds out whom the rules about this machine's own senders name, and adds
// torbpf's own.
func (s *State) identify(facts *plan.Host, namespace string, rules config.Rules) error {
	var err error
	if facts.Identities, err = host.Resolve(rules); err != nil {
		return err
	}
	facts.TorGroup = s.TorGroup
	facts.Own, err = s.ownIdentities(namespace)
	return err
}

// noteTorUser writes down whose tor it is. To client mode that account stands for tor, so
// root's cannot be used with it.
func (s *State) noteTorUser(pid int) error {
	if !s.usesClient() {
		return nil
	}
	user, err := sockets.UserOf(pid)
	if err != nil {
		return fmt.Errorf("find out whose tor it is: %w", err)
	}
	if user == 0 {
		return errors.New("tor runs as root, so it cannot be told from other programs of root's: give it an account of its own (User in its torrc)")
	}
	s.TorUser = user
	return nil
}

// besideAdvice tells of what is forwarded, and so is none of this machine's own.
func besideAdvice(p *plan.Plan) []doctor.Advice {
	if p.Client == nil || !p.Client.All {
		return nil
	}
	var w []doctor.Advice
	for _, name := range p.Client.Beside {
		w = append(w, doctor.Beside(name))
	}
	return w
}

// clientAdvice tells what of this machine does not go as one might think.
func clientAdvice(p *plan.Plan, everything bool) []doctor.Advice {
	c := p.Client
	if c == nil || !c.All {
		return nil
	}
	w := timeServiceAdvice(p)
	for _, text := range senderWarnings(c) {
		w = append(w, doctor.Advise(text))
	}
	w = append(w, proxyAdvice(p)...)
	for _, wide := range c.Widest {
		w = append(w, wideExit(widestWords(wide), wide.Name, everything, "--client --interface"))
	}
	return w
}

func proxyAdvice(p *plan.Plan) []doctor.Advice {
	if p.Client.ProxyPort == 0 || p.Resolver.IsValid() {
		return nil
	}
	return []doctor.Advice{doctor.Advise("the proxy past Tor takes addresses alone, since it has nobody to ask for names", "say resolver below [exclusions] of the configuration")}
}

// wgQuickAdvice tells of firewalls of wg-quick's and what they stop.
func wgQuickAdvice(s *State, p *plan.Plan) []doctor.Advice {
	client := p.Client != nil && p.Client.All
	excluded := len(p.LANs) > 0 && s.Config.Rules.OfLANs().OpensAny()
	if !client && !excluded {
		return nil
	}
	names, err := nft.WGQuick()
	if err != nil {
		return []doctor.Advice{doctor.Advise(fmt.Sprintf("whether wg-quick has a firewall could not be read: %v", err))}
	}
	return doctor.WGQuick(names, client, excluded)
}

// endRedirected ends the connections of this machine's own that Tor carries, before what
// redirects them goes: the kernel would send what is left of them to the site itself.
func endRedirected(s *State) error {
	if s == nil || !s.usesClient() {
		return nil
	}
	flows, err := route.Flows()
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range flows {
		if f.Protocol == unix.IPPROTO_TCP && f.DNAT && f.ReplySrc.Port() == s.Config.Tor.TransPort && f.ReplySrc.Addr().Unmap().IsLoopback() {
			errs = append(errs, sockets.Destroy(f.Src, f.Dst))
		}
	}
	return errors.Join(errs...)
}
