package router

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// EventFilter says which events somebody wants.
type EventFilter struct {
	Kinds   []EventKind // none: all
	Reasons []string    // of refusals and alarms, see docs/REASONS.md; none: all events
	Device  string      // a name, a hardware address or an address; "": all
	Since   time.Time   // of those that were written down; zero: since attach
	Follow  bool        // go on with those that happen from now on
}

// Events tells of what has happened, the oldest first, and of what happens, until ctx ends
// or nothing is attached any more. Refusals are sampled, at most a hundred a second, and
// nobody writes them down: they are told of only while they happen.
func (r *Router) Events(ctx context.Context, f EventFilter, told func(Event)) error {
	s, err := r.attached()
	if err != nil {
		return err
	}
	wanted, err := r.newWanted(s, f)
	if err != nil {
		return err
	}
	journal := &journalReader{paths: r.journalPaths()}
	defer journal.Close()
	kept, err := r.keptEvents(journal)
	if err != nil {
		return err
	}
	for _, e := range kept {
		if !e.Time.Before(f.Since) && wanted.has(e) {
			told(e)
		}
	}
	if !f.Follow {
		return nil
	}
	var mu sync.Mutex // events come from two sides
	tell := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if wanted.has(e) {
			told(e)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.followJournal(ctx, journal, tell) })
	g.Go(func() error {
		return r.followRefusals(ctx, func(p Refused) { tell(wanted.packetEvent(p)) })
	})
	return g.Wait()
}

// keptEvents are those that were written down.
func (r *Router) keptEvents(journal *journalReader) ([]Event, error) {
	kept, err := journal.Next()
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	alarms, err := r.Alarms()
	if err != nil {
		return nil, err
	}
	for _, a := range alarms {
		kept = append(kept, a.event())
	}
	slices.SortStableFunc(kept, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return kept, nil
}

// event is an alarm as it was kept.
func (a Alarm) event() Event {
	p := Refused{Time: a.Time, Interface: a.Interface, Reason: a.Reason, Protocol: a.Protocol, Length: a.Length}
	// An address that cannot be read is one of a file that somebody else has written.
	p.Src, _ = netip.ParseAddrPort(a.Src)
	p.Dst, _ = netip.ParseAddrPort(a.Dst)
	if reason, ok := abi.ReasonNamed(a.Reason); ok {
		p.Meaning = reason.Explain()
	}
	return Event{Time: a.Time, Kind: EventAlarm, Text: p.Meaning, Packet: &p}
}

// followJournal tells of what is appended.
func (r *Router) followJournal(ctx context.Context, journal *journalReader, tell func(Event)) error {
	tick := time.NewTicker(watchPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		events, err := journal.Next()
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		for _, e := range events {
			tell(e)
		}
	}
}

// recordPolicy writes down what has become of a rule.
func (r *Router) recordPolicy(what string, rule config.Rule) {
	e := Event{Kind: EventPolicy, Text: what, Rule: &EventOf{Kind: rule.Kind, Entry: rule.String()}}
	switch rule.Kind {
	case config.KindDevice, config.KindSource:
		e.Device = rule.String()
	}
	r.record(e)
}

// wanted is a filter with what it takes to apply it.
type wanted struct {
	EventFilter
	router *Router
	device *watched // nil: all devices

	names map[netip.Addr]string // of devices by their addresses
	read  time.Time             // when they were
}

func (r *Router) newWanted(s *State, f EventFilter) (*wanted, error) {
	w := &wanted{EventFilter: f, router: r}
	for _, reason := range f.Reasons {
		if _, ok := abi.ReasonNamed(reason); !ok {
			return nil, config.Invalid("%q is no reason: docs/REASONS.md has them all, and the column REASON of torbpf status those that have occurred", reason)
		}
	}
	for _, kind := range f.Kinds {
		if !slices.Contains(EventKinds, kind) {
			return nil, config.Invalid("%q is none of the kinds of events: %s", kind, kindWords())
		}
	}
	if f.Device == "" {
		return w, nil
	}
	from, err := s.sender(f.Device)
	if err != nil {
		return nil, err
	}
	w.device = &watched{sender: from, who: f.Device, read: time.Now()}
	return w, nil
}

func kindWords() string {
	words := make([]string, len(EventKinds))
	for i, k := range EventKinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

// has tells whether an event passes the filter.
func (w *wanted) has(e Event) bool {
	if len(w.Kinds) > 0 && !slices.Contains(w.Kinds, e.Kind) {
		return false
	}
	if len(w.Reasons) > 0 && (e.Packet == nil || !slices.Contains(w.Reasons, e.Packet.Reason)) {
		return false
	}
	switch {
	case w.device == nil:
		return true
	case e.Packet != nil:
		return w.device.has(e.Packet.Src.Addr(), w.router.attached)
	case e.Rule != nil:
		return w.device.isMeant(*e.Rule)
	}
	return false
}

// isMeant tells whether a rule is about who is watched.
func (w *watched) isMeant(of EventOf) bool {
	entry, err := config.ParseEntry(of.Kind, of.Entry)
	switch {
	case err != nil:
		return false
	case of.Kind == config.KindDevice:
		return entry.MAC == w.mac && w.mac != config.MAC{}
	case of.Kind == config.KindSource:
		return slices.ContainsFunc(w.addrs, entry.Prefix.Contains)
	}
	return false
}

// packetEvent is a packet that was refused, or that a last guard stopped.
func (w *wanted) packetEvent(p Refused) Event {
	e := Event{Time: p.Time, Kind: EventRefused, Text: p.Meaning, Device: w.nameOf(p.Src.Addr()), Packet: &p}
	if reason, ok := abi.ReasonNamed(p.Reason); ok && slices.Contains(lastGuards, reason) {
		e.Kind = EventAlarm
	}
	return e
}

// nameOf is the name of the device that has an address, or else its hardware address; "" for
// an address of no neighbour's. Whom nobody knew may have come since.
func (w *wanted) nameOf(addr netip.Addr) string {
	name, known := w.names[addr]
	if known || time.Since(w.read) < addrsAgain {
		return name
	}
	w.read = time.Now()
	s, err := w.router.attached()
	if err != nil {
		return ""
	}
	neighbours, err := s.neighbours()
	if err != nil {
		return ""
	}
	w.names = make(map[netip.Addr]string)
	for a, mac := range neighbours {
		if w.names[a] = s.Config.DeviceName(mac); w.names[a] == "" {
			w.names[a] = mac.String()
		}
	}
	return w.names[addr]
}
