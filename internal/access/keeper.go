package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"
)

// How long things last.
const (
	inviteLife  = 5 * time.Minute  // of a word that signs in once
	sessionIdle = 30 * time.Minute // without a request
	sessionLife = 12 * time.Hour   // whatever is asked
)

// Bounds of what is kept: the oldest goes.
const (
	maxInvites  = 8
	maxSessions = 32
	maxStreams  = 4 // of events, at a time
)

// Attempts at the password, of everybody together, since who asks is known by the word of a
// process without privileges alone: so many at once, then one after each pause.
const (
	attemptBurst = 10
	attemptPause = 6 * time.Second
)

// Keeper knows the sessions.
type Keeper struct {
	attempts *Bucket
	hashing  sync.Mutex // one at a time: it is what costs
	verify   func(file, password string) (bool, error)

	mu       sync.Mutex
	invites  map[digest]time.Time // when each ends
	sessions map[digest]*session  // by the cookie
	devices  map[digest]*device   // likewise
	ended    int                  // how often all have ended
	streams  int
}

// digest stands for a secret: to look one up by it says nothing of the others.
type digest [sha256.Size]byte

// session is that of a page. Its secret has two halves: the cookie, which no script can read,
// but which browsers send to every port of an address; and the key, which the page alone
// has. Neither is worth anything without the other.
type session struct {
	key   digest
	ends  time.Time
	seen  time.Time
	idle  *time.Timer
	alive context.Context
	end   context.CancelFunc
}

// Granted is what begins a session.
type Granted struct {
	Cookie, Key string
	Ends        time.Time // at the latest
}

// The refusals of a Keeper.
var (
	ErrWrong    = errors.New("that is not the password")
	ErrInvite   = errors.New("the link has been used, or is too old: `torbpf page login` makes another")
	errSignedIn = errors.New("sign in first: by the password, or by the link that `torbpf page login` prints on the router")
	errEnded    = errors.New("all sessions were ended meanwhile: sign in anew")
	errStreams  = errors.New("too many pages follow the events: close one")
)

// TooOften says when the password may be tried again.
type TooOften struct{ Wait time.Duration }

// Error says it in words.
func (e TooOften) Error() string {
	return fmt.Sprintf("the password was tried too often: try again in %d s, or use `torbpf page login` on the router", e.seconds())
}

func (e TooOften) seconds() int { return int(e.Wait/time.Second) + 1 }

// New returns a Keeper that lets nobody in yet.
func New() *Keeper {
	return &Keeper{
		attempts: NewBucket(attemptBurst, attemptPause), verify: verify,
		invites: make(map[digest]time.Time), sessions: make(map[digest]*session), devices: make(map[digest]*device),
	}
}

// Invite returns a word that signs in once, and until when.
func (k *Keeper) Invite() (word string, ends time.Time) {
	word = secret()
	k.mu.Lock()
	defer k.mu.Unlock()
	ends = time.Now().Add(inviteLife)
	if len(k.invites) >= maxInvites {
		delete(k.invites, oldest(k.invites, func(t time.Time) time.Time { return t }))
	}
	k.invites[digestOf(word)] = ends
	return word, ends
}

// ByInvite begins a session by the word of an invitation, which is worth nothing from then on.
func (k *Keeper) ByInvite(word string) (Granted, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ends, invited := k.invites[digestOf(word)]
	delete(k.invites, digestOf(word))
	if !invited || time.Now().After(ends) {
		return Granted{}, ErrInvite
	}
	return k.begin(), nil
}

// ByPassword begins a session by the password of a file. It is one of the attempts of everybody.
func (k *Keeper) ByPassword(file, password string) (Granted, error) {
	return k.byPassword(file, password, k.attempts)
}

func (k *Keeper) byPassword(file, password string, attempts *Bucket) (Granted, error) {
	if ok, wait := attempts.Take(time.Now()); !ok {
		return Granted{}, TooOften{wait}
	}
	if len(password) > maxPassword {
		return Granted{}, ErrWrong
	}
	k.mu.Lock()
	ended := k.ended
	k.mu.Unlock()
	k.hashing.Lock()
	right, err := k.verify(file, password)
	k.hashing.Unlock()
	if err != nil {
		return Granted{}, err
	}
	if !right {
		return Granted{}, ErrWrong
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended != ended {
		return Granted{}, errEnded // hashing takes a while, and the password may be another by now
	}
	return k.begin(), nil
}

func (k *Keeper) begin() Granted {
	g := Granted{Cookie: secret(), Key: secret(), Ends: time.Now().Add(sessionLife)}
	if len(k.sessions) >= maxSessions {
		k.forget(oldest(k.sessions, func(s *session) time.Time { return s.seen }))
	}
	id := digestOf(g.Cookie)
	s := &session{key: digestOf(g.Key), ends: g.Ends, seen: time.Now()}
	s.alive, s.end = context.WithDeadline(context.Background(), g.Ends)
	s.idle = time.AfterFunc(sessionIdle, func() { k.End(g.Cookie) })
	k.sessions[id] = s
	return g
}

// find returns the session of a cookie and a key; nil if there is none. It lives on by that.
func (k *Keeper) find(cookie, key string) *session {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := digestOf(cookie)
	s := k.sessions[id]
	if s == nil {
		return nil
	}
	if now := time.Now(); now.After(s.ends) || now.Sub(s.seen) > sessionIdle {
		k.forget(id)
		return nil
	}
	if given := digestOf(key); subtle.ConstantTimeCompare(given[:], s.key[:]) != 1 {
		return nil
	}
	s.seen = time.Now()
	s.idle.Reset(sessionIdle)
	return s
}

// forget ends a session, and what it follows.
func (k *Keeper) forget(id digest) {
	if s := k.sessions[id]; s != nil {
		s.end()
		s.idle.Stop()
		delete(k.sessions, id)
	}
}

// End ends the session of a cookie.
func (k *Keeper) End(cookie string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(digestOf(cookie))
}

// EndAll ends all sessions, those too that are about to begin, and invitations, and knows no browser any
// more; it says how many sessions that were.
func (k *Keeper) EndAll() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended++
	n := len(k.sessions)
	for id := range k.sessions {
		k.forget(id)
	}
	clear(k.invites)
	clear(k.devices)
	return n
}

// stream lets a page follow the events, if not too many do.
func (k *Keeper) stream() (done func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.streams >= maxStreams {
		return nil, errStreams
	}
	k.streams++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.streams--
	}, nil
}

// oldest finds what has to make room.
func oldest[T any](kept map[digest]T, age func(T) time.Time) (found digest) {
	var since time.Time
	for id, v := range kept {
		if at := age(v); since.IsZero() || at.Before(since) {
			found, since = id, at
		}
	}
	return found
}

func secret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return encode(b[:])
}

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }
