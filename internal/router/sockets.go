package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sockets"
)

// markSockets gives the sockets that are older than the programs of client mode the class
// which newer ones get when they are made, and takes it from those that have lost it: an
// exclusion that has gone ends with its connections, since what has no class is judged by
// each packet.
func (j *job) markSockets() error {
	if j.plan.Client == nil && (j.before == nil || !j.before.usesClient()) {
		return nil
	}
	now, err := kernel.BootTime()
	if err != nil {
		return err
	}
	m := newMarker(j.plan, now, j.flows)
	m.note = j.generation.NoteSocket
	m.first = j.before == nil || j.before.Blocked || !j.before.Config.Client.Enable
	if m.unprivileged, err = firstUnprivileged(); err != nil {
		return err
	}
	if err := sockets.Each(m.listen); err != nil {
		return err
	}
	return sockets.Each(m.mark)
}

// forgetSockets takes the classes of client mode from sockets.
func (r *Router) forgetSockets(s *State) error {
	if !s.usesClient() {
		return nil
	}
	m := &marker{plan: &plan.Plan{Mark: plan.Mark{Shift: s.Config.MarkShift}}} // none is direct
	return sockets.Each(m.mark)
}

// marker decides the class of sockets.
type marker struct {
	plan      *plan.Plan
	now       time.Duration
	first     bool                  // nobody has watched connections come in yet
	begun     map[tcpFlow]bool      // what conntrack knows, by who has begun it
	listeners map[uint16][]listener // by port
	// unprivileged is the first port that anybody may listen on.
	unprivileged uint16
	note         func(descriptor int, by plan.Identity) error // writes down why a socket is direct
}

type tcpFlow struct{ from, to netip.AddrPort }

func newMarker(p *plan.Plan, now time.Duration, flows []plan.Flow) *marker {
	m := &marker{plan: p, now: now, begun: make(map[tcpFlow]bool), listeners: make(map[uint16][]listener)}
	for _, f := range flows {
		if f.Protocol == unix.IPPROTO_TCP {
			m.begun[tcpFlow{unmapped(f.Src), unmapped(f.ReplySrc)}] = true
		}
	}
	return m
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// listener is who takes connections to a port.
type listener struct {
	at   netip.Addr // the unspecified one for every address
	both bool       // of both families, where that is IPv6's
	root bool       // whose it is
}

// takes tells whether a connection to an address may have come to this listener.
func (l listener) takes(to netip.Addr) bool {
	if !l.at.IsUnspecified() {
		return l.at == to
	}
	return l.both || l.at.Is4() == to.Is4()
}

// listen notes who listens where.
func (m *marker) listen(s *sockets.Socket) error {
	if s.TCP && s.Listening {
		port, at := s.Local.Port(), s.Local.Addr()
		m.listeners[port] = append(m.listeners[port], listener{at: at, both: at.Is6() && !s.OnlyIPv6, root: s.Owner.User == 0})
	}
	return nil
}

func (m *marker) mark(s *sockets.Socket) error {
	class, by := m.class(s)
	if class == abi.VerdictDirect { // before it has the mark, and again: by another rule, perhaps
		if err := m.note(s.Descriptor(), by); err != nil {
			return fmt.Errorf("%w, one of process %d", err, s.Owner.PID)
		}
	}
	want := s.Mark&^m.plan.Mark.Mask() | m.bits(class, by, s.Owner)
	if want == s.Mark {
		return nil
	}
	if err := s.SetMark(want); err != nil {
		return fmt.Errorf("%w of process %d", err, s.Owner.PID)
	}
	return nil
}

// torProgram is what the kernel calls the processes of tor; a transport's has the name of its file.
const torProgram = "tor"

// bits is bits_of() of bpf/client.bpf.c.
func (m *marker) bits(class abi.Verdict, by plan.Identity, owner *sockets.Process) uint32 {
	var instance uint32
	if class == abi.VerdictDirect && by.Tor {
		instance = abi.OwnBesideTor
		if owner.Name == torProgram {
			instance = abi.OwnOfTor
		}
	}
	return m.plan.Mark.Bits(uint32(class), instance)
}

// class is that of bpf/client.bpf.c, and whose rule says so, if one does.
func (m *marker) class(s *sockets.Socket) (abi.Verdict, plan.Identity) {
	c := m.plan.Client
	if c == nil {
		return abi.VerdictNone, plan.Identity{}
	}
	by, policy, found := m.identity(s.Owner)
	switch {
	case found && policy == config.PolicyTor:
		return abi.VerdictTor, by
	case c.All && m.begunOutside(s): // which lasts longer than a rule for who listens
		return abi.VerdictInbound, plan.Identity{}
	case found:
		return abi.VerdictDirect, by
	}
	return abi.VerdictNone, plan.Identity{}
}

// identity returns the most specific rule for a process, and what it says: that of its control
// group, the nearest one first, then of its program, then of its user.
func (m *marker) identity(p *sockets.Process) (plan.Identity, config.Policy, bool) {
	for _, group := range p.Cgroups {
		if by, policy, found := m.ruled(func(id plan.Identity) bool { return id.Kind == config.KindCgroup && id.Cgroup == group }); found {
			return by, policy, true
		}
	}
	if by, policy, found := m.ruled(func(id plan.Identity) bool { return id.Kind == config.KindProgram && id.Program == p.Program }); found {
		return by, policy, true
	}
	return m.ruled(func(id plan.Identity) bool { return id.Kind == config.KindUser && id.User == p.User })
}

// ruled finds the first rule in force that is about somebody.
func (m *marker) ruled(about func(plan.Identity) bool) (plan.Identity, config.Policy, bool) {
	for _, id := range m.plan.Client.Identities {
		if policy, holds := id.At(m.now); holds && about(id) {
			return id, policy, true
		}
	}
	return plan.Identity{}, "", false
}

// begunOutside tells whether a connection came in. The programs mark those that do; of
// one that is older than they are conntrack tells, or, where nobody tracked it, that
// somebody listens where it has come to.
func (m *marker) begunOutside(s *sockets.Socket) bool {
	remote := s.Remote.Addr()
	if !s.TCP || s.Listening || !s.Remote.IsValid() || remote.IsLoopback() {
		return false
	}
	switch {
	case !m.first:
		return m.plan.Mark.Class(uint32(abi.VerdictInbound)) == s.Mark&m.plan.Mark.ClassMask()
	case m.begun[tcpFlow{s.Remote, s.Local}]:
		return true
	case m.begun[tcpFlow{s.Local, s.Remote}]:
		return false
	}
	// Where root listens, and on such a port only root may, nobody else can have begun a
	// connection from; who listens elsewhere might have begun it himself.
	return slices.ContainsFunc(m.listeners[s.Local.Port()], func(l listener) bool {
		return s.Local.Port() < m.unprivileged || l.root && l.takes(s.Local.Addr())
	})
}

// firstUnprivileged reads the first port that anybody may listen on.
func firstUnprivileged() (uint16, error) {
	text, err := host.Sysctl("net.ipv4.ip_unprivileged_port_start")
	if err != nil {
		return 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("read the first unprivileged port: %w", err)
	}
	return uint16(port), nil
}
