package tor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
)

// Renewal says whose circuits are to be closed.
type Renewal struct {
	// Whose tells whether an address is one of theirs.
	Whose func(netip.Addr) bool
	// Memory is what others know of this tor's circuits.
	Memory circuits.Memory
	// Cut ends the connections to tor that theirs have, by the number of its process. It is
	// called only where there are circuits of which nobody knows whose they are.
	Cut func(pid int) error
}

// Renewed is what has become of a renewal.
type Renewed struct {
	Closed  int // circuits that have been theirs
	Unknown int // others that were closed, since they may have been theirs
}

// streamPurposes are those of circuits that carry what clients send.
var streamPurposes = []string{"GENERAL", "CONFLUX_LINKED", "CONFLUX_UNLINKED", "HS_CLIENT_REND"}

// Renew closes all circuits that there are now and that were ever used from the addresses of
// a renewal, with what goes by them; nothing that comes from there later can use one of them.
//
// A circuit that has been used from one address is never used from another (IsolateClientAddr),
// so nobody else loses anything by that. Of which it is not known whose they are, those are
// closed too by which nothing goes: when the connections of whom it is about are cut, what
// still goes by a circuit is somebody else's.
func (f *Follower) Renew(ctx context.Context, r Renewal) (Renewed, error) {
	c, err := Dial(ctx, f.control.address)
	if err != nil {
		return Renewed{}, err
	}
	defer c.Close()
	heard, now, err := f.memory(ctx)
	if err != nil {
		return Renewed{}, err
	}
	known := heard.Join(r.Memory)
	var out Renewed
	theirs := WithPartners(known.Of(r.Whose), now)
	for _, id := range theirs {
		if err := c.closeCircuit(ctx, id, false); err != nil {
			return out, err
		}
	}
	closing, err := f.closeUnknown(ctx, c, r, known.Unknown, now)
	if err != nil {
		return out, err
	}
	out.Unknown = len(closing)
	// What they began meanwhile may have gone by a circuit that only then was known to be theirs.
	heard, later, err := f.memory(ctx)
	if err != nil {
		return out, err
	}
	for _, id := range WithPartners(heard.Of(r.Whose), later) {
		if slices.Contains(known.Unknown, id) && !slices.Contains(closing, id) {
			if err := c.closeCircuit(ctx, id, false); err != nil {
				return out, err
			}
			theirs = append(theirs, id)
		}
	}
	out.Closed = len(theirs)
	return out, f.awaitClosed(ctx, c, slices.Concat(theirs, closing))
}

// closeUnknown closes those that nothing goes by, and returns which.
func (f *Follower) closeUnknown(ctx context.Context, c *Control, r Renewal, unknown []uint64, now []Circuit) ([]uint64, error) {
	may := carriers(unknown, now)
	if len(may) == 0 {
		return nil, nil
	}
	if err := r.Cut(f.pid); err != nil {
		return nil, err
	}
	// tor takes what has become of its connections in the order in which it came to be, so
	// when it answers it has seen that those have ended.
	if _, err := f.ask(ctx); err != nil {
		return nil, err
	}
	for range 2 {
		for _, id := range may {
			if err := c.closeCircuit(ctx, id, true); err != nil {
				return nil, err
			}
		}
		// Questions for names have no connection that could be cut: they are over in a moment.
		if err := f.awaitAnswers(ctx, c, may); err != nil {
			return nil, err
		}
	}
	left, err := f.ask(ctx)
	if err != nil {
		return nil, err
	}
	used := carriers(may, left)
	return slices.DeleteFunc(may, func(id uint64) bool { return slices.Contains(used, id) }), nil
}

// answerTime is longer than tor waits for the answer to a question for a name.
const answerTime = 20 * time.Second

// awaitAnswers waits until no question for a name is under way by some circuits.
func (f *Follower) awaitAnswers(ctx context.Context, c *Control, some []uint64) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := c.GetInfo(ctx, "stream-status")
		if err != nil {
			return err
		}
		if !asks(text, some) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for answers to questions that have begun before: %w; try again", context.Cause(ctx))
		}
	}
}

// asks tells whether a question goes by one of some circuits (control-spec, "stream-status").
func asks(streams string, some []uint64) bool {
	for line := range strings.Lines(streams) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != "SENTRESOLVE" {
			continue
		}
		if id, err := parseID(fields[2]); err == nil && slices.Contains(some, id) {
			return true
		}
	}
	return false
}

// carriers are those of some circuits that are there and carry what clients send.
func carriers(some []uint64, all []Circuit) []uint64 {
	var out []uint64
	for _, c := range all {
		if slices.Contains(some, c.ID) && slices.Contains(streamPurposes, c.Purpose) {
			out = append(out, c.ID)
		}
	}
	return out
}

// probeTime is how long tor may take to probe a circuit; see awaitClosed.
const probeTime = 2 * time.Second

// awaitClosed waits until circuits are gone that tor was told to close. One that it has tried
// to use without success it probes first, to find relays that let circuits fail: no stream goes
// by that any more, but those that wait for its end do until then. Told again, tor closes it at once.
func (f *Follower) awaitClosed(ctx context.Context, c *Control, closing []uint64) error {
	patience := time.NewTimer(probeTime)
	defer patience.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for again := false; ; {
		there, err := f.ask(ctx)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(slices.Clone(closing), func(id uint64) bool { return !slices.Contains(ids(there), id) })
		switch {
		case len(left) == 0:
			return nil
		case again:
			return fmt.Errorf("tor has not closed circuits %d, though it said so; try again", left)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-patience.C:
			again = true
			for _, id := range left {
				if err := c.closeCircuit(ctx, id, false); err != nil {
					return err
				}
			}
		}
	}
}

// WithPartners adds the circuits that share their streams with these.
func WithPartners(some []uint64, all []Circuit) []uint64 {
	sets := make(map[string]bool)
	for _, c := range all {
		if c.Conflux != "" && slices.Contains(some, c.ID) {
			sets[c.Conflux] = true
		}
	}
	out := []uint64{}
	for _, c := range all {
		if sets[c.Conflux] || slices.Contains(some, c.ID) {
			out = append(out, c.ID)
		}
	}
	return out
}

// unrecognized is the code of a reply about a circuit that is no more (control-spec, "Replies").
const unrecognized = 552

// closeCircuit closes one, which is no error of one that has gone; unused: only if nothing
// goes by it.
func (c *Control) closeCircuit(ctx context.Context, id uint64, unused bool) error {
	line := fmt.Sprintf("CLOSECIRCUIT %d", id)
	if unused {
		line += " IfUnused"
	}
	_, err := c.command(ctx, line)
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code == unrecognized {
		return nil
	}
	return err
}
