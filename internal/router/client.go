package router

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/internal/sockets"
)

// clientWords stand for what this machine itself sends, among the names of interfaces.
const clientWords = "this machine"

// whom lists in words what a state has on Tor, or waits for.
func (s *State) whom() string { return s.onTor().String() }

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
		names = append(names[:len(names):len(names)], clientWords)
	}
	return strings.Join(names, ", ")
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

// effectiveUser finds the account that a process acts as: proc(5) status, the second
// number. The owner of /proc/PID does not tell, since tor forbids debuggers.
var effectiveUser = regexp.MustCompile(`(?m)^Uid:\t[0-9]+\t([0-9]+)\t`)

// noteTorUser writes down whose tor it is. To client mode that account stands for tor, so
// root's cannot be used with it.
func (s *State) noteTorUser(pid int) error {
	if !s.Config.Client.Enable {
		return nil
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return fmt.Errorf("find out whose tor it is: %w", err)
	}
	found := effectiveUser.FindSubmatch(status)
	if found == nil {
		return fmt.Errorf("find out whose tor it is: /proc/%d/status names no user", pid)
	}
	user, err := strconv.ParseUint(string(found[1]), 10, 32)
	if err != nil {
		return fmt.Errorf("find out whose tor it is: %w", err)
	}
	if user == 0 {
		return errors.New("tor runs as root, so it cannot be told from other programs of root's: give it an account of its own (User in its torrc)")
	}
	s.TorUser = uint32(user)
	return nil
}

// clientWarnings tells what of this machine does not go as one might think.
func clientWarnings(p *plan.Plan, everything bool) []string {
	c := p.Client
	if c == nil || !c.All {
		return nil
	}
	var w []string
	for _, name := range c.Beside {
		w = append(w, fmt.Sprintf("what is behind %s, such as containers, is forwarded and not sent by this machine, so it goes direct: torbpf attach %s", name, name))
	}
	if account := timeUser(); account != "" && !letsTime(c.Rules, account) {
		w = append(w, fmt.Sprintf("this machine's time service gets no answers, since Tor carries no NTP, and with a wrong clock neither Tor nor TLS works: torbpf exclude add --user %s", account))
	}
	for _, wide := range c.Widest {
		w = append(w, wideWarning(widestWords(wide), wide.Name, everything, "--client --interface"))
	}
	return w
}

// timeUsers are the accounts of time services on Debian and elsewhere.
var timeUsers = []string{"systemd-timesync", "_chrony", "chrony", "ntpsec", "ntp", "_ntp"}

// timeUser returns the account of this machine's time service, "" if it has none.
func timeUser() string {
	for _, name := range timeUsers {
		if _, err := user.Lookup(name); err == nil {
			return name
		}
	}
	return ""
}

// letsTime tells whether rules let a time service's account, or its port, out.
func letsTime(rules config.Rules, account string) bool {
	const portNTP = 123
	return slices.ContainsFunc(rules, func(r config.Rule) bool {
		return r.Policy == config.PolicyDirect && (r.Kind == config.KindUser && r.User == account || r.Kind == config.KindPort && r.Service.Port == portNTP)
	})
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

// endCells ends what exec runs by Tor, which must not go on in clear.
func endCells(s *State, namespace string) error {
	if s == nil || len(s.Cells) == 0 {
		return nil
	}
	root, err := cgroup.Tree()
	if err != nil {
		return err
	}
	groups, err := cgroup.Groups(root, namespace)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range s.Cells {
		for _, g := range groups {
			if g.ID == c.ID && c.Policy == config.PolicyTor {
				errs = append(errs, g.Kill())
			}
		}
	}
	return errors.Join(errs...)
}
