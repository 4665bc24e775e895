package router

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/tor"
)

// CircuitStatus is a circuit that can be used.
type CircuitStatus struct {
	Instance int        `json:"instance"` // of the tor that has built it
	ID       uint64     `json:"id"`
	Purpose  string     `json:"purpose"`
	Created  time.Time  `json:"created"`
	Path     []HopRelay `json:"path"`    // the guard first
	Devices  []string   `json:"devices"` // that have used it: a name, a hardware address or an address
	// Known is false for one that was there before anybody looked: others may have used it.
	Known bool `json:"known"`
	// Others says that somebody has who is no device: this machine, or who else a system tor serves.
	Others  bool     `json:"others"`
	Targets []string `json:"targets"` // of open streams, for who asks for them
}

// HopRelay is a relay of a path.
type HopRelay struct {
	tor.Relay
	Country string `json:"country"` // two letters; "" where it is not known
}

// Circuits lists the circuits that can be used, with the devices that have used them. Where
// they go is said only if targets.
func (r *Router) Circuits(ctx context.Context, targets bool) ([]CircuitStatus, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	neighbours, err := s.neighbours()
	if err != nil {
		return nil, err
	}
	memories := r.recall(ctx, slices.Collect(maps.Keys(neighbours)))
	lans, err := s.lanAddresses()
	if err != nil {
		return nil, err
	}
	out := []CircuitStatus{}
	for i, control := range r.controlAddresses(s) {
		list := circuitList{instance: i, state: s, neighbours: neighbours, lans: lans, memory: memoryOf(memories, i), targets: targets}
		if err := list.read(ctx, control); err != nil {
			if r.torGone(s, i) {
				continue // it has none
			}
			return nil, fmt.Errorf("read the circuits of tor %d: %w", i, err)
		}
		out = append(out, list.found...)
	}
	return out, nil
}

// lanAddresses are the router's on its LANs, with their subnets.
func (s *State) lanAddresses() ([]netip.Prefix, error) {
	facts, err := host.Read()
	if err != nil {
		return nil, fmt.Errorf("read the host: %w", err)
	}
	var out []netip.Prefix
	for _, a := range facts.Addrs {
		if slices.Contains(s.lanIndices(), a.Index) {
			out = append(out, a.Prefix)
		}
	}
	return out, nil
}

// circuitList collects those of one tor.
type circuitList struct {
	instance   int
	state      *State
	neighbours map[netip.Addr]config.MAC
	lans       []netip.Prefix // the router's own addresses, with their subnets
	memory     circuits.Memory
	targets    bool
	found      []CircuitStatus
}

func (l *circuitList) read(ctx context.Context, control string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*controlPatience)
	defer cancel()
	c, err := tor.Dial(ctx, control)
	if err != nil {
		return err
	}
	defer c.Close()
	condition, err := c.Condition(ctx)
	if err != nil {
		return err
	}
	var to map[uint64][]string
	if l.targets {
		if to, err = c.Targets(ctx); err != nil {
			return err
		}
	}
	known := l.memory.PID == condition.PID
	var relays []string
	for _, circuit := range condition.Circuits {
		if circuit.State != tor.Built {
			continue
		}
		status := CircuitStatus{
			Instance: l.instance, ID: circuit.ID, Purpose: circuit.Purpose, Created: circuit.Created, Path: []HopRelay{},
			Known: known && !slices.Contains(l.memory.Unknown, circuit.ID), Devices: []string{}, Targets: append([]string{}, to[circuit.ID]...),
		}
		for _, relay := range circuit.Path {
			relays = append(relays, relay.Fingerprint)
			status.Path = append(status.Path, HopRelay{Relay: relay})
		}
		if known {
			l.users(&status, tor.WithPartners([]uint64{circuit.ID}, condition.Circuits))
		}
		l.found = append(l.found, status)
	}
	slices.SortFunc(l.found, func(a, b CircuitStatus) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(relays)
	countries, err := c.Countries(ctx, slices.Compact(relays))
	if err != nil {
		return err
	}
	for _, status := range l.found {
		for i := range status.Path {
			status.Path[i].Country = countries[status.Path[i].Fingerprint]
		}
	}
	return nil
}

// users says who has used a circuit, or one that it shares its streams with.
func (l *circuitList) users(status *CircuitStatus, with []uint64) {
	for _, u := range l.memory.Uses {
		if !slices.Contains(with, u.Circuit) {
			continue
		}
		device := l.device(u.Addr)
		switch {
		case device == "":
			status.Others = true
		case !slices.Contains(status.Devices, device):
			status.Devices = append(status.Devices, device)
		}
	}
}

// device is whose an address is; "" for nobody's behind the LANs.
func (l *circuitList) device(addr netip.Addr) string {
	if mac, known := l.neighbours[addr]; known {
		return l.state.deviceWords(config.Entry{Kind: config.KindDevice, MAC: mac})
	}
	behind := func(p netip.Prefix) bool { return p.Addr() != addr && p.Contains(addr) }
	own := func(p netip.Prefix) bool { return p.Addr() == addr }
	if slices.ContainsFunc(l.lans, behind) && !slices.ContainsFunc(l.lans, own) {
		return addr.String()
	}
	return ""
}
