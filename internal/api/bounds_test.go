package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/router"
)

// slow is a router whose answers wait.
type slow struct {
	pretended
	begun, let chan struct{}
}

func newSlow() *slow { return &slow{begun: make(chan struct{}, 64), let: make(chan struct{})} }

func (s *slow) wait() {
	s.begun <- struct{}{}
	<-s.let
}

func (s *slow) Status(context.Context) (*router.Status, error) {
	s.wait()
	return &router.Status{}, nil
}
func (s *slow) Doctor(context.Context, router.DoctorOptions) (*doctor.Report, error) {
	s.wait()
	return &doctor.Report{}, nil
}
func (s *slow) Events(context.Context, router.EventFilter, func(router.Event)) error {
	s.wait()
	return nil
}

// TestWhatIsAtWorkIsBounded: whoever asks for the next one is told so, and what has been begun
// is answered.
func TestWhatIsAtWorkIsBounded(t *testing.T) {
	for path, c := range map[string]struct {
		most int
		says string
	}{
		"/v1/doctor":          {1, "the doctor is looking"},
		"/v1/status":          {maxAtWork, "8 others"},
		"/v1/events?follow=1": {maxFollowers, "16 others"},
	} {
		r, b, mux := newSlow(), newBounds(), http.NewServeMux()
		b.turn = 0
		api{r, byPage}.register(mux, b)
		ask := func() *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			return w
		}
		codes := make(chan int)
		for range c.most {
			go func() { codes <- ask().Code }()
			<-r.begun
		}
		if w := ask(); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), c.says) || !strings.Contains(w.Body.String(), "try again") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		close(r.let)
		for range c.most {
			if code := <-codes; code != http.StatusOK {
				t.Errorf("%s: %d", path, code)
			}
		}
		if w := ask(); w.Code != http.StatusOK {
			t.Errorf("%s: afterwards %d %s", path, w.Code, w.Body)
		}
	}
}

// TestARequestWaitsForItsTurn: a page asks for several things at once.
func TestARequestWaitsForItsTurn(t *testing.T) {
	r, mux := newSlow(), http.NewServeMux()
	api{r, byPage}.register(mux, newBounds())
	codes := make(chan int)
	const asked = maxAtWork + 4
	for range asked {
		go func() {
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest("GET", "/v1/status", nil))
			codes <- w.Code
		}()
	}
	for range maxAtWork {
		<-r.begun
	}
	close(r.let)
	for range asked {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("%d", code)
		}
	}
}
