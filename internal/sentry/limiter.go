package sentry

import (
	"net/netip"
	"sync"
)

// limiter counts what is in use, in all and by device, so that neither one
// greedy device nor many of them can exhaust the sentry.
type limiter struct {
	max, maxPerPeer int

	mu     sync.Mutex
	total  int
	byPeer map[netip.Addr]int // only devices that use something
}

func newLimiter(max, maxPerPeer int) *limiter {
	return &limiter{max: max, maxPerPeer: maxPerPeer, byPeer: make(map[netip.Addr]int)}
}

// acquire takes one for the device, if there is one.
func (l *limiter) acquire(peer netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.byPeer[peer] >= l.maxPerPeer {
		return false
	}
	l.total++
	l.byPeer[peer]++
	return true
}

// release gives back what acquire took.
func (l *limiter) release(peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.byPeer[peer]--; l.byPeer[peer] == 0 {
		delete(l.byPeer, peer)
	}
}

// crowded reports whether more than half is in use.
func (l *limiter) crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 2*l.total > l.max
}
