package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/torbpf/torbpf/internal/circuits"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sockets"
	"github.com/torbpf/torbpf/tor"
)

// Newnym says who goes by other circuits from now on.
type Newnym struct {
	Device string       `json:"device"`    // a name, else an address; "" for all
	Addrs  []netip.Addr `json:"addresses"` // of the device, by which tor knows it
	Closed int          `json:"closed"`    // circuits of the device, with what went by them
	// Unknown are circuits without any connection that were closed since nobody knows whose they were.
	Unknown int      `json:"unknown"`
	Skipped []string `json:"skipped"` // tors that do not answer, and have no circuit that can be used
}

// NewCircuits has every tor use new circuits for what is begun from now on. What goes by a
// circuit goes on.
func (r *Router) NewCircuits(ctx context.Context) (*Newnym, error) {
	s, err := r.forNewnym()
	if err != nil {
		return nil, err
	}
	out := &Newnym{Addrs: []netip.Addr{}}
	var told sync.Once
	waits := func() {
		told.Do(func() {
			r.notify(fmt.Sprintf("tor takes new circuits once in %v at most: waiting until it does", tor.NewnymPace))
		})
	}
	err = r.eachTor(ctx, s, out, func(ctx context.Context, _ int, control string) error {
		c, err := tor.Dial(ctx, control)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Newnym(ctx, waits)
	})
	if err != nil {
		return nil, err
	}
	r.Record(EventTor, "new circuits for all")
	return out, nil
}

// NewCircuitsFor closes every circuit that a device has used, with its connections, so that
// nothing it does later goes by one of them. Nobody else's are touched.
func (r *Router) NewCircuitsFor(ctx context.Context, who string) (*Newnym, error) {
	s, err := r.forNewnym()
	if err != nil {
		return nil, err
	}
	neighbours, err := s.neighbours()
	if err != nil {
		return nil, err
	}
	entry, err := s.Config.WhoIs(who, neighbours)
	if err != nil {
		return nil, err
	}
	out := &Newnym{Device: s.deviceWords(entry), Addrs: addressesOf(entry, neighbours)}
	whose := func(addr netip.Addr) bool { return slices.Contains(out.Addrs, addr) }
	if entry.Kind == config.KindDevice {
		// An address that nobody has now may be one that the device had.
		facts, err := host.Read()
		if err != nil {
			return nil, fmt.Errorf("read the host: %w", err)
		}
		nobodys := s.nobodys(facts, neighbours)
		whose = func(addr netip.Addr) bool { return slices.Contains(out.Addrs, addr) || nobodys(addr) }
	}
	var mu sync.Mutex
	err = r.eachTor(ctx, s, out, func(ctx context.Context, instance int, control string) error {
		cut := func(pid int) error {
			if err := r.checkPID(s, instance, pid); err != nil {
				return err
			}
			return cutFrom(pid, whose)
		}
		done, err := r.renew(ctx, instance, control, out.Addrs, tor.Renewal{Whose: whose, Cut: cut})
		mu.Lock()
		defer mu.Unlock()
		out.Closed, out.Unknown = out.Closed+done.Closed, out.Unknown+done.Unknown
		return err
	})
	if err != nil {
		return nil, err
	}
	r.record(Event{Kind: EventTor, Text: "new circuits", Device: out.Device})
	return out, nil
}

func (r *Router) forNewnym() (*State, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	s, err := r.attached()
	if err == nil && s.Blocked {
		err = fmt.Errorf("%w: nothing goes by Tor yet", ErrNotAttached)
	}
	return s, err
}

// renew has one tor close the circuits of a device.
func (r *Router) renew(ctx context.Context, instance int, control string, addrs []netip.Addr, renewal tor.Renewal) (tor.Renewed, error) {
	// It listens before it asks what the sentry has heard, so that nothing is missed between.
	f, err := tor.Follow(ctx, control, circuits.Memory{})
	if err != nil {
		return tor.Renewed{}, err
	}
	renewal.Memory = memoryOf(r.recall(ctx, addrs), instance)
	done, err := f.Renew(ctx, renewal)
	return done, errors.Join(err, f.Close())
}

// checkPID refuses the process that a tor says it is where torbpf has started another: one that was
// taken over could have connections of anybody's ended.
func (r *Router) checkPID(s *State, instance, pid int) error {
	if s.Config.Tor.Mode == config.TorSystem {
		return nil
	}
	d, err := r.findDaemon(instance)
	if err != nil {
		return err
	}
	if d == nil || d.PID() != pid {
		return fmt.Errorf("end the connections of tor %d: it says that it is process %d, which torbpf has not started as that: restart it by torbpf detach and attach", instance, pid)
	}
	return nil
}

// cutFrom ends the connections to a tor that come from some addresses. One in a container counts
// processes of its own, and another's connections are not to be ended in its place.
func cutFrom(pid int, whose func(netip.Addr) bool) error {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if name := strings.TrimSpace(string(comm)); err != nil || name != torProgram {
		return fmt.Errorf("find the connections of tor: process %d is %q here, so tor is in a container; torbpf tor newnym without a device gives new circuits to all", pid, name)
	}
	return sockets.Of(pid, func(s *sockets.Socket) error {
		if !s.TCP || !s.Remote.IsValid() || !whose(s.Remote.Addr().Unmap().WithZone("")) {
			return nil
		}
		return sockets.Destroy(s.Local, s.Remote)
	})
}

// eachTor does something with all tors at once. Those that do not answer have no circuit that
// anything could go by; that all are so is an error.
func (r *Router) eachTor(ctx context.Context, s *State, out *Newnym, do func(context.Context, int, string) error) error {
	controls := r.controlAddresses(s)
	errs := make([]error, len(controls))
	var asked sync.WaitGroup
	for i := range controls[1:] {
		asked.Go(func() { errs[i+1] = do(ctx, i+1, controls[i+1]) })
	}
	errs[0] = do(ctx, 0, controls[0]) // by TCP perhaps, so in this thread's namespace
	asked.Wait()
	out.Skipped = []string{}
	for i, err := range errs {
		switch {
		case err == nil:
		case !r.torGone(s, i):
			return fmt.Errorf("new circuits by tor %d: %w", i, err)
		default:
			out.Skipped = append(out.Skipped, fmt.Sprintf("tor %d is gone", i))
		}
	}
	if len(out.Skipped) == len(controls) {
		return fmt.Errorf("new circuits: tor is gone, and with it all circuits: %s: %w", r.nextStep(s, 0), errors.Join(errs...))
	}
	return nil
}

// torGone tells whether a managed tor has ended, and all its circuits with it.
func (r *Router) torGone(s *State, instance int) bool {
	if s.Config.Tor.Mode == config.TorSystem {
		return false
	}
	d, err := r.findDaemon(instance)
	return err == nil && d == nil
}

// addressesOf are those of whom somebody means, as neighbours know them.
func addressesOf(entry config.Entry, neighbours map[netip.Addr]config.MAC) []netip.Addr {
	if entry.Kind != config.KindDevice {
		return []netip.Addr{entry.Prefix.Addr()}
	}
	return append([]netip.Addr{}, byMAC(neighbours)[entry.MAC]...)
}

// nobodys tells whether an address is one of a LAN with Ethernet that no neighbour has now.
func (s *State) nobodys(facts plan.Host, neighbours map[netip.Addr]config.MAC) func(netip.Addr) bool {
	taken := make(map[netip.Addr]bool)
	for addr := range neighbours {
		taken[addr] = true
	}
	var subnets []netip.Prefix
	for _, a := range facts.Addrs {
		taken[a.Prefix.Addr()] = true
		if l, ok := facts.LinkByIndex(a.Index); ok && l.Ethernet && slices.Contains(s.lanIndices(), l.Index) {
			subnets = append(subnets, a.Prefix.Masked())
		}
	}
	return func(addr netip.Addr) bool {
		return !taken[addr] && slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
}

// deviceWords are what a device is called: by its name, else by its address.
func (s *State) deviceWords(entry config.Entry) string {
	if entry.Kind == config.KindDevice {
		if name := s.Config.DeviceName(entry.MAC); name != "" {
			return name
		}
	}
	return entry.String()
}

// String says it in words.
func (n *Newnym) String() string {
	if n.Device == "" {
		return withSkipped("what anybody begins from now on goes by new circuits; connections that are open go on by theirs", n.Skipped)
	}
	text := fmt.Sprintf("%s goes by new circuits: %d that it has used are closed, with its connections", n.Device, n.Closed)
	if n.Closed == 0 {
		text = fmt.Sprintf("%s has used no circuit that is still open", n.Device)
	}
	if n.Unknown > 0 {
		text += fmt.Sprintf("; so are %d by which nothing went, since it is not known who has used them", n.Unknown)
	}
	return withSkipped(text, n.Skipped)
}

func withSkipped(text string, skipped []string) string {
	if len(skipped) == 0 {
		return text
	}
	return text + " (" + strings.Join(skipped, ", ") + ")"
}
