package router

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sockets"
)

// timeServices are the names of their processes, of at most 15 letters.
var timeServices = []string{"systemd-timesyn", "chronyd", "ntpd", "ntpsec"}

// timeService is one that runs on this machine.
type timeService struct {
	process *sockets.Process
	account string // whose it is
}

// runningTimeService returns the time service that runs, nil for none. Of several processes
// the one that is not root's is that which asks: the other is there for its privileges.
func runningTimeService() (*timeService, error) {
	var found *sockets.Process
	err := sockets.EachProcess(func(p *sockets.Process) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
		if err != nil || !slices.Contains(timeServices, strings.TrimSpace(string(comm))) {
			return
		}
		if found == nil || found.User == 0 {
			found = p
		}
	})
	if err != nil || found == nil {
		return nil, err
	}
	number := strconv.FormatUint(uint64(found.User), 10)
	account, err := user.LookupId(number)
	if errors.As(err, new(user.UnknownUserIdError)) {
		return &timeService{found, number}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up user %s: %w", number, err)
	}
	return &timeService{found, account.Username}, nil
}

// timeServiceAdvice tells what to type where this machine's time service gets no answers; nothing
// where none runs, or a rule lets it out.
func timeServiceAdvice(p *plan.Plan) []doctor.Advice {
	service, err := runningTimeService()
	if err != nil || service == nil {
		return nil // it is a hint, and no more
	}
	now, err := kernel.BootTime()
	if err != nil || newMarker(p, now, nil).letsTime(service.process) {
		return nil
	}
	rule := "--user " + service.account
	if service.process.User == 0 { // all of root's would be direct
		rule = "--client --port " + config.Service{Protocol: config.ProtocolUDP, Port: config.PortNTP}.String()
	}
	return []doctor.Advice{doctor.Advise("this machine's time service gets no answers, since Tor carries no NTP, and with a wrong clock neither Tor nor TLS works", "torbpf exclude add "+rule)}
}

// letsTime tells whether rules let a time service out, or NTP, which is by UDP.
func (m *marker) letsTime(service *sockets.Process) bool {
	if _, policy, found := m.identity(service); found && policy == config.PolicyDirect {
		return true
	}
	return slices.ContainsFunc(m.plan.Client.Rules, func(r config.Rule) bool {
		return r.Policy == config.PolicyDirect && r.Kind == config.KindPort &&
			r.Service == config.Service{Protocol: config.ProtocolUDP, Port: config.PortNTP}
	})
}
