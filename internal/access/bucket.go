package access

import (
	"sync"
	"time"
)

// Bucket bounds how often something may be tried: a number of times at once, and then again
// after each pause. The zero Bucket allows nothing.
type Bucket struct {
	burst int
	pause time.Duration

	mu   sync.Mutex
	left int
	at   time.Time // when what is left was true
}

// NewBucket returns a full one.
func NewBucket(burst int, pause time.Duration) *Bucket {
	return &Bucket{burst: burst, pause: pause, left: burst}
}

// Take takes one; if there is none, wait is how long until there is.
func (b *Bucket) Take(now time.Time) (ok bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	if b.left == 0 {
		return false, b.pause - now.Sub(b.at)
	}
	b.left--
	return true, 0
}

// Full tells whether nothing has been taken that is not back.
func (b *Bucket) Full(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	return b.left == b.burst
}

func (b *Bucket) fill(now time.Time) {
	if b.left == b.burst || b.pause <= 0 {
		b.at = now
		return
	}
	back := int(now.Sub(b.at) / b.pause)
	b.left = min(b.burst, b.left+back)
	b.at = b.at.Add(time.Duration(back) * b.pause)
}
