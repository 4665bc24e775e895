package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// schedule says when authorities vote and how long each phase of a vote lasts. A
// consensus is due at two phases after the votes.
type schedule struct {
	consensus time.Time
	phase     time.Duration // at least two seconds
}

// scheduleLater keeps authorities from voting for minutes.
func scheduleLater() schedule {
	return schedule{consensus: time.Now().Add(votingInterval / 2), phase: minPhase}
}

func (l *Lab) authorities() []*relay {
	var found []*relay
	for _, r := range l.Tor.relays {
		if r.role == roleAuthority {
			found = append(found, r)
		}
	}
	return found
}

// startAuthorities starts them without a vote in sight: first they collect
// descriptors, for as long as that takes on a busy machine.
func (l *Lab) startAuthorities(ctx context.Context) error {
	return l.startAndListen(ctx, l.authorities())
}

// awaitDescriptors waits until every authority has the descriptor of every relay.
func (l *Lab) awaitDescriptors(ctx context.Context) error {
	for _, r := range l.authorities() {
		err := waitFor(ctx, r.name+" to have all descriptors", func() (bool, error) {
			known := countIn(r.tor.dir, "cached-descriptors", "\nrouter-signature\n")
			return known >= len(l.Tor.relays), r.tor.exited()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// vote tells the authorities of a vote a few seconds away and waits for the
// consensus. It does not restart them: a restarted authority knows no relay as
// running and votes for none. A tor that gets no processor time misses the
// deadlines of a vote, and the next is five minutes away; so each further attempt
// allows for more.
func (l *Lab) vote(ctx context.Context) error {
	var err error
	for _, factor := range []time.Duration{1, 2, 4} {
		phase := factor * minPhase
		due := time.Now().Add(factor*leadTime + 2*phase)
		err = l.voteOnce(ctx, schedule{consensus: due, phase: phase})
		if !errors.Is(err, errNoConsensus) {
			return err
		}
		l.logf("%v", err)
	}
	return err
}

var errNoConsensus = errors.New("authorities missed the vote")

func (l *Lab) voteOnce(ctx context.Context, s schedule) error {
	for _, r := range l.authorities() {
		if err := l.writeRelayTorrc(r, s); err != nil {
			return err
		}
		if err := r.tor.hangup(); err != nil {
			return err
		}
	}
	patience, cancel := context.WithDeadline(ctx, s.consensus.Add(2*s.phase))
	defer cancel()
	for _, r := range l.authorities() {
		err := waitFor(patience, r.name+" to have a consensus", func() (bool, error) {
			text, _ := os.ReadFile(filepath.Join(r.tor.dir, "cached-microdesc-consensus"))
			return strings.Count(string(text), "\nr ") >= len(l.Tor.relays), r.tor.exited()
		})
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return fmt.Errorf("%w: %w", errNoConsensus, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// knowsAll says whether a relay has the consensus and all n microdescriptors.
func (r *relay) knowsAll(n int) bool {
	return fileExists(filepath.Join(r.tor.dir, "cached-microdesc-consensus")) &&
		countIn(r.tor.dir, "cached-microdescs", "\nonion-key\n") >= n
}

// countIn counts a text in one of tor's caches and its journal.
func countIn(dir, cache, text string) int {
	count := 0
	for _, name := range []string{cache, cache + ".new"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			count += strings.Count(string(content), text)
		}
	}
	return count
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
