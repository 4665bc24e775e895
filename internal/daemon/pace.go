package daemon

import (
	"strings"
	"time"
)

// paces keep a repair that does not last, such as a quarrel with another program
// about who comes first, from becoming a busy loop: by what was found, so that one
// quarrel does not hold up the repair of all else.
type paces map[string]*pace

// pace is about one thing that was found.
type pace struct {
	attempts int       // with no time of rest between
	next     time.Time // not before
}

const (
	paceFree = 3                // attempts without a wait
	paceMin  = time.Second      // the first wait; each further one is twice as long
	paceMax  = 30 * time.Second // where the doubling ends
	paceRest = 10 * time.Second // without the same finding, after which it is forgotten
)

// due tells whether something may be done about a finding now.
func (p paces) due(found []string, now time.Time) bool {
	one := p[strings.Join(found, "\n")]
	return one == nil || !now.Before(one.next)
}

// tried takes down that something was done about it.
func (p paces) tried(found []string, now time.Time) {
	for key, one := range p {
		if now.Sub(one.next) >= paceRest {
			delete(p, key)
		}
	}
	key := strings.Join(found, "\n")
	one := p[key]
	if one == nil {
		one = &pace{}
		p[key] = one
	}
	one.attempts++
	one.next = now
	if excess := one.attempts - paceFree; excess > 0 {
		one.next = now.Add(min(paceMin<<min(excess-1, 16), paceMax))
	}
}
