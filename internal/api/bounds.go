package api

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Bounds of what is at work at a time, whoever asks: each status opens sockets of its own, and
// descriptors are shared with what repairs.
const (
	maxAtWork    = 8  // requests
	maxFollowers = 16 // of the events
	maxScrapes   = 8  // of the metrics, which are read once for all of them
)

// turn is how long a request waits until others have been answered.
const turn = 5 * time.Second

// bounds are those of one way in: root's socket, or the conduit. So what comes by the one never
// keeps out what comes by the other.
type bounds struct {
	atWork, doctors, followers chan struct{}
	turn                       time.Duration
}

func newBounds() *bounds {
	return &bounds{
		atWork: make(chan struct{}, maxAtWork), doctors: make(chan struct{}, 1), followers: make(chan struct{}, maxFollowers),
		turn: turn,
	}
}

// errMuch says that too much is at work.
type errMuch struct{ what string }

// Error says it in words.
func (e errMuch) Error() string { return e.what + ": nothing was done; try again in a moment" }

// bounded lets so many requests work at a time.
func (b *bounds) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		places, patience := b.atWork, b.turn
		if r.URL.Query().Get("follow") == "1" {
			places, patience = b.followers, 0
		}
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		select {
		case places <- struct{}{}:
		default:
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				fail(w, errMuch{fmt.Sprintf("%d others are being answered", cap(places))})
				return
			}
		}
		defer func() { <-places }()
		next.ServeHTTP(w, r)
	})
}

// oneDoctor lets one look at the host at a time, which takes the most of all.
func (b *bounds) oneDoctor(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case b.doctors <- struct{}{}:
			defer func() { <-b.doctors }()
			next(w, r)
		default:
			fail(w, errMuch{"the doctor is looking at this host for somebody else"})
		}
	}
}
