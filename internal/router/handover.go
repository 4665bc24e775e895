package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sockets"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
	"github.com/torbpf/torbpf/tor"
)

// handOver has the programs hand TCP to the sockets that tor listens with, where that is how it gets
// there (bpf/handover.h). tor has no privilege to make its sockets transparent, and needs
// none: a copy of their descriptors does.
func (j *job) handOver(context.Context) error {
	if !j.plan.TProxy {
		return nil
	}
	for instance := range j.plan.Tors() {
		if err := j.handToTor(instance); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) handToTor(instance int) error {
	pid, err := j.torPID(instance)
	if errors.Is(err, tor.ErrNotRunning) && j.torErr != nil {
		return nil // which is told by what is missing then
	}
	if err != nil {
		return err
	}
	port, missing := j.plan.Tors()[instance].Trans, listenersOf(instance)
	err = sockets.Of(pid, func(s *sockets.Socket) error {
		if !s.TCP || !s.Listening || !s.Local.Addr().IsLoopback() || s.Local.Port() != port {
			return nil
		}
		l := loader.Listener{Instance: uint32(instance), IPv6: s.Local.Addr().Is6()}
		missing = slices.DeleteFunc(missing, func(m loader.Listener) bool { return m == l })
		return j.handTo(l, s)
	})
	if err != nil {
		return fmt.Errorf("hand connections to tor: %w", err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("hand connections to tor: process %d does not listen at %s: see its log, or choose tcp_mode %q (--tcp-mode)",
			pid, transAddr(missing[0], port), config.TCPRedirect)
	}
	return nil
}

// handTo gives a socket what it needs before the first packet gets there.
func (j *job) handTo(l loader.Listener, s *sockets.Socket) error {
	if err := s.SetTransparent(); err != nil {
		return err
	}
	if err := s.SetMark(s.Mark&^j.plan.Mark.Mask() | j.plan.Mark.Class(uint32(abi.VerdictTor))); err != nil {
		return err
	}
	return j.datapath.HandTo(l, s.Descriptor())
}

// applyRules puts the ip rules in place. Where TCP was handed over until now that ends before: tor, which is
// asked first, listens otherwise by then.
func (j *job) applyRules(context.Context) error {
	if j.before != nil && !j.plan.TProxy && j.before.Config.Tor.TCPMode == config.TCPTProxy {
		if err := errors.Join(endHanded(j.before), endUnowned(j.before, anyLink), host.FailNeighbours(j.before.lanIndices())); err != nil {
			return err
		}
	}
	if err := j.endLeft(); err != nil {
		return err
	}
	return j.state.putRules(j.plan)
}

func (j *job) torPID(instance int) (int, error) {
	if j.state.Config.Tor.Mode == config.TorSystem {
		if j.tor.system == nil {
			return 0, tor.ErrNotRunning
		}
		return j.tor.system.PID, nil
	}
	d, err := j.findDaemon(instance)
	if err != nil {
		return 0, err
	}
	if d == nil {
		return 0, tor.ErrNotRunning
	}
	return d.PID(), nil
}

// endHanded ends the connections that a state has handed to tor without NAT, and takes its mark
// from the sockets that listen: what is sent there from now on has no way to them.
func endHanded(s *State) error {
	return eachHanded(s, func(socket *sockets.Socket) error {
		if socket.Listening {
			return socket.SetMark(socket.Mark &^ plan.Mark{Shift: s.Config.MarkShift}.Mask())
		}
		return socket.Disconnect()
	})
}

// eachHanded visits the sockets that have tor's mark in a state, those that listen too.
func eachHanded(s *State, visit func(*sockets.Socket) error) error {
	if s.Config.Tor.TCPMode != config.TCPTProxy {
		return nil
	}
	return sockets.Each(func(socket *sockets.Socket) error {
		if !socket.TCP || !s.handed(socket.Mark) {
			return nil
		}
		return visit(socket)
	})
}

// endLeft ends the connections of devices behind LANs that are none any more: without a program
// there what they go on to send would leave in clear. They are told while nftables still lets tor
// answer them.
func (j *job) endLeft() error {
	left := func(index int) bool { return index != 0 && !slices.Contains(j.plan.LANIndices(), index) }
	if j.before == nil || !slices.ContainsFunc(j.before.lanIndices(), left) {
		return nil
	}
	return errors.Join(eachHanded(j.before, func(s *sockets.Socket) error {
		if s.Listening || !left(host.RouteTo(s.Remote.Addr(), 0)) {
			return nil
		}
		return s.Disconnect()
	}), endUnowned(j.before, left))
}

// anyLink is for connections of devices behind whatever interface.
func anyLink(int) bool { return true }

// endUnowned ends what is left of the connections that a state has handed to tor, and to which no descriptor
// leads: those that tor has closed with something left to send, and those that it has not
// accepted. It comes after those that have one. behind says by the interface of their device which.
func endUnowned(s *State, behind func(ifindex int) bool) error {
	if s.Config.Tor.TCPMode != config.TCPTProxy {
		return nil
	}
	all, err := sockets.Connections()
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		if s.handed(c.Mark) && behind(host.RouteTo(c.Remote.Addr(), 0)) {
			errs = append(errs, sockets.Destroy(c.Local, c.Remote))
		}
	}
	return errors.Join(errs...)
}

// handed tells a socket of a connection that was handed to tor by its mark.
func (s *State) handed(mark uint32) bool {
	m := plan.Mark{Shift: s.Config.MarkShift}
	return mark&m.ClassMask() == m.Class(uint32(abi.VerdictTor))
}

// endHandedOver ends all that was handed to tor, with tor if it is ours, while the guards are there: what the
// kernel says of devices that are gone it says now.
func (r *Router) endHandedOver(ctx context.Context, s *State) error {
	if s.Config.Tor.TCPMode != config.TCPTProxy {
		return nil
	}
	err := endHanded(s)
	if s.Config.Tor.Mode == config.TorManaged {
		err = errors.Join(err, r.stopTors(ctx, 0)) // which leaves what it had to send
	}
	return errors.Join(err, endUnowned(s, anyLink), host.FailNeighbours(s.lanIndices()))
}

// handsOver finds sockets that the programs know nothing of, or no more: whoever listened with
// them is gone, or was started anew by somebody else.
func (f *findings) handsOver(p *plan.Plan, d *loader.Datapath) error {
	if !p.TProxy {
		return nil
	}
	for instance, t := range p.Tors() {
		for _, l := range listenersOf(instance) {
			there, err := d.HandsTo(l)
			if err != nil {
				return err
			}
			if !there {
				f.add(stepHandOver, "tor's socket at %s is not known to the programs: TCP to Tor is refused", transAddr(l, t.Trans))
			}
		}
	}
	return nil
}

// listenersOf are the places of an instance.
func listenersOf(instance int) []loader.Listener {
	out := []loader.Listener{{Instance: uint32(instance)}}
	if kernel.HasLoopback6() {
		out = append(out, loader.Listener{Instance: uint32(instance), IPv6: true})
	}
	return out
}

// transAddr is where tor listens for what is handed to it.
func transAddr(l loader.Listener, port uint16) netip.AddrPort {
	if l.IPv6 {
		return netip.AddrPortFrom(netip.IPv6Loopback(), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// handOverAdvice tells of a firewall that may stop what tor answers: conntrack has never
// heard of it, so it is part of no established connection there. The probe sees what comes
// in alone.
func handOverAdvice(p *plan.Plan) []doctor.Advice {
	if !p.TProxy {
		return nil
	}
	chains, err := nft.ClosedOutputChains()
	if err != nil {
		return []doctor.Advice{doctor.Advise(fmt.Sprintf("whether a firewall of this host stops what tor answers is not known: %v", err))}
	}
	var w []doctor.Advice
	for _, c := range chains {
		w = append(w, doctor.Advise(fmt.Sprintf("the chain %s drops what no rule of it lets go, and what tor answers to devices is of no connection that conntrack knows", c),
			fmt.Sprintf("nft insert rule %s meta mark and %#x == %#x accept", c, p.Mark.ClassMask(), p.Mark.Class(uint32(abi.VerdictTor)))))
	}
	return w
}
