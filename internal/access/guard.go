package access

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"
)

// How a page shows its session: the cookie, which no script can read, and the key, in a header
// that no other site can have a browser send.
const (
	cookieName = "torbpf_session"
	KeyHeader  = "Torbpf-Key"
)

// maxSignIn is more than anybody has to say to sign in, in bytes.
const maxSignIn = 1 << 10

// asked is what signs in, each at a path of its own: a word is not guessed, so nobody has to
// wait for it because somebody else tries passwords.
type asked struct {
	Word     string `json:"word"`
	Password string `json:"password"`
}

// granted is what the page is told.
type granted struct {
	Key  string    `json:"key"`
	Ends time.Time `json:"ends"`
}

// Handler serves what is behind the page's session: inner, whose events may be followed, and the session
// itself. passwordFile has the hash of the password.
func (k *Keeper) Handler(passwordFile string, inner http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/session", func(w http.ResponseWriter, r *http.Request) {
		k.signIn(w, r, func(a asked) (Granted, error) {
			attempts, err := k.attemptsOf(r)
			if err != nil {
				return Granted{}, err
			}
			return k.byPassword(passwordFile, a.Password, attempts)
		})
	})
	mux.HandleFunc("POST /v1/session/link", func(w http.ResponseWriter, r *http.Request) {
		k.signIn(w, r, func(a asked) (Granted, error) { return k.ByInvite(a.Word) })
	})
	mux.Handle("GET /v1/session", k.guard(passwordFile, http.HandlerFunc(ok)))
	mux.Handle("DELETE /v1/session", k.guard(passwordFile, http.HandlerFunc(k.signOut)))
	mux.Handle("/v1/", k.guard(passwordFile, k.bounded(inner)))
	return SameOrigin(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	}))
}

func (k *Keeper) signIn(w http.ResponseWriter, r *http.Request, begin func(asked) (Granted, error)) {
	var a asked
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSignIn))
	in.DisallowUnknownFields()
	if err := in.Decode(&a); err != nil {
		tell(w, http.StatusBadRequest, map[string]any{"error": "read what signs in: " + err.Error()})
		return
	}
	g, err := begin(a)
	if err != nil {
		Refuse(w, err)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: g.Cookie, Path: "/v1", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.SetCookie(w, k.remember(r))
	tell(w, http.StatusOK, granted{g.Key, g.Ends})
}

func (k *Keeper) signOut(w http.ResponseWriter, r *http.Request) {
	if _, cookie := k.sessionOf(r); cookie != "" {
		k.End(cookie)
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/v1", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	ok(w, r)
}

func ok(w http.ResponseWriter, _ *http.Request) { tell(w, http.StatusOK, struct{}{}) }

// guard lets through who has a session, for as long as it lasts.
func (k *Keeper) guard(passwordFile string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := k.sessionOf(r)
		if s == nil {
			_, err := os.Stat(passwordFile)
			refuse(w, errSignedIn, map[string]any{"password": err == nil})
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.alive, cancel)()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// sessionOf returns the session of a request; nil if there is none. There may be cookies of that name
// from whoever has another port of this address, which browsers send first if their path is longer.
func (k *Keeper) sessionOf(r *http.Request) (s *session, cookie string) {
	for _, c := range r.CookiesNamed(cookieName) {
		if s := k.find(c.Value, r.Header.Get(KeyHeader)); s != nil {
			return s, c.Value
		}
	}
	return nil, ""
}

// bounded bounds how many follow the events.
func (k *Keeper) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") != "" {
			done, err := k.stream()
			if err != nil {
				Refuse(w, err)
				return
			}
			defer done()
		}
		next.ServeHTTP(w, r)
	})
}

// Refuse says why not, by an object with an error and by the status.
func Refuse(w http.ResponseWriter, err error) { refuse(w, err, map[string]any{}) }

func refuse(w http.ResponseWriter, err error, more map[string]any) {
	status := http.StatusInternalServerError
	var often TooOften
	switch {
	case errors.Is(err, errHost):
		status = http.StatusMisdirectedRequest
	case errors.Is(err, errOrigin):
		status = http.StatusForbidden
	case errors.Is(err, errForm):
		status = http.StatusUnsupportedMediaType
	case errors.Is(err, errSignedIn), errors.Is(err, errEnded), errors.Is(err, ErrWrong), errors.Is(err, ErrInvite), errors.Is(err, ErrNoPassword):
		status = http.StatusUnauthorized
	case errors.Is(err, errStreams):
		status = http.StatusTooManyRequests
	case errors.As(err, &often):
		w.Header().Set("Retry-After", strconv.Itoa(often.seconds()))
		status = http.StatusTooManyRequests
	}
	more["error"] = err.Error()
	tell(w, status, more)
}

func tell(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone is nobody's fault
}
