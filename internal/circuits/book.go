// Package circuits remembers which of tor's circuits have been used from which address. tor
// keeps that to itself once a stream has ended: it tells of a stream while that lives, and of
// a circuit never who has used it.
package circuits

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// Use says that a circuit has carried something of an address.
type Use struct {
	Circuit uint64     `json:"circuit"`
	Addr    netip.Addr `json:"addr"`
}

// Memory is what somebody knows of the circuits of one tor.
type Memory struct {
	PID  int   `json:"pid"`  // of the tor, whose numbers of circuits mean nothing to another; 0: nothing is known
	Uses []Use `json:"uses"` // of circuits that there are
	// Unknown are circuits that were there before anybody looked, and of which nothing was
	// heard since: they may have been used from any address.
	Unknown []uint64 `json:"unknown"`
}

// Of returns the circuits that were used from one of these addresses.
func (m Memory) Of(addrs func(netip.Addr) bool) []uint64 {
	var out []uint64
	for _, u := range m.Uses {
		if addrs(u.Addr) && !slices.Contains(out, u.Circuit) {
			out = append(out, u.Circuit)
		}
	}
	return out
}

// Join adds what somebody else knows of the same tor; what one of the two knows is not unknown.
func (m Memory) Join(other Memory) Memory {
	if other.PID != m.PID {
		return m
	}
	out := Memory{PID: m.PID, Uses: slices.Clone(m.Uses)}
	for _, u := range other.Uses {
		if !slices.Contains(out.Uses, u) {
			out.Uses = append(out.Uses, u)
		}
	}
	for _, c := range m.Unknown {
		if slices.Contains(other.Unknown, c) {
			out.Unknown = append(out.Unknown, c)
		}
	}
	return out
}

// Stream is what tor tells of a stream when something becomes of it.
type Stream struct {
	ID      uint64
	Circuit uint64     // 0 for none
	Source  netip.Addr // who has begun it, told once, when it is new
	Closed  bool
	// Alone says that nobody with another address comes on a circuit after it (IsolateClientAddr).
	Alone bool
}

// streamsMax bounds how many are remembered; tor has no more descriptors than that.
const streamsMax = 1 << 16

// circuitsMax bounds how many are remembered between two calls of Memory.
const circuitsMax = 1 << 14

// ErrTooMany says that tor tells of more streams or circuits than can be remembered.
var ErrTooMany = errors.New("tor tells of more streams or circuits than can be remembered")

// Book is kept by who hears of every stream. Its methods may be called concurrently.
type Book struct {
	mu      sync.Mutex
	pid     int
	streams map[uint64]netip.Addr
	uses    map[uint64]map[netip.Addr]bool
	alone   map[uint64]bool // circuits of which it is known whose they are
	unknown map[uint64]bool
}

// NewBook returns a book of one tor, without any circuit.
func NewBook(pid int) *Book {
	return &Book{
		pid: pid, streams: make(map[uint64]netip.Addr), uses: make(map[uint64]map[netip.Addr]bool),
		alone: make(map[uint64]bool), unknown: make(map[uint64]bool),
	}
}

// Begin says which circuits there were when somebody had begun to listen, and what was known of
// them from before. A circuit that is known is one address's for ever, as tor isolates them.
func (b *Book) Begin(existing []uint64, before Memory) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before.PID == b.pid {
		for _, u := range before.Uses {
			if !slices.Contains(before.Unknown, u.Circuit) {
				b.use(u.Circuit, u.Addr, true)
			}
		}
	}
	for _, c := range existing {
		if !b.alone[c] {
			b.unknown[c] = true
		}
	}
}

// Note hears of a stream.
func (b *Book) Note(s Stream) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.Source.IsValid() {
		b.streams[s.ID] = s.Source
	}
	if addr, known := b.streams[s.ID]; known && s.Circuit != 0 {
		b.use(s.Circuit, addr, s.Alone)
	}
	if s.Closed {
		delete(b.streams, s.ID)
	}
	if len(b.streams) > streamsMax || len(b.uses) > circuitsMax {
		return ErrTooMany
	}
	return nil
}

func (b *Book) use(circuit uint64, addr netip.Addr, alone bool) {
	if b.uses[circuit] == nil {
		b.uses[circuit] = make(map[netip.Addr]bool)
	}
	b.uses[circuit][addr] = true
	if alone {
		b.alone[circuit] = true
		delete(b.unknown, circuit)
	}
}

// Memory forgets circuits that are no more, and returns what is known of those that are.
func (b *Book) Memory(existing []uint64) Memory {
	b.mu.Lock()
	defer b.mu.Unlock()
	there := make(map[uint64]bool)
	for _, c := range existing {
		there[c] = true
	}
	out := Memory{PID: b.pid, Uses: []Use{}, Unknown: []uint64{}}
	for c, addrs := range b.uses {
		if !there[c] {
			delete(b.uses, c)
			delete(b.alone, c)
			continue
		}
		for addr := range addrs {
			out.Uses = append(out.Uses, Use{c, addr})
		}
	}
	for c := range b.unknown {
		if !there[c] {
			delete(b.unknown, c)
			continue
		}
		out.Unknown = append(out.Unknown, c)
	}
	slices.Sort(out.Unknown)
	slices.SortFunc(out.Uses, func(a, b Use) int {
		return cmp.Or(cmp.Compare(a.Circuit, b.Circuit), a.Addr.Compare(b.Addr))
	})
	return out
}
