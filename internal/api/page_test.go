package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torbpf/torbpf/internal/access"
	"github.com/torbpf/torbpf/internal/conduit"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/router"
)

// pretended is a router that writes down what is changed.
type pretended struct{ changed []string }

func (*pretended) Status(context.Context) (*router.Status, error) {
	return &router.Status{Namespace: "secret"}, nil
}
func (*pretended) Devices() ([]router.DeviceStatus, error) {
	return []router.DeviceStatus{{Name: "secret"}}, nil
}
func (*pretended) TorReport(context.Context) (*router.TorReport, error) {
	return &router.TorReport{TCPMode: "secret"}, nil
}
func (*pretended) Circuits(_ context.Context, targets bool) ([]router.CircuitStatus, error) {
	if targets {
		return []router.CircuitStatus{{Targets: []string{"bank.example"}}}, nil
	}
	return []router.CircuitStatus{{Purpose: "secret"}}, nil
}
func (p *pretended) NewCircuits(context.Context) (*router.Newnym, error) {
	p.changed = append(p.changed, "new circuits by the page")
	return &router.Newnym{}, nil
}
func (p *pretended) NewCircuitsFor(_ context.Context, device string) (*router.Newnym, error) {
	p.changed = append(p.changed, "new circuits of "+device+" by the page")
	return &router.Newnym{Device: device}, nil
}
func (*pretended) Events(_ context.Context, _ router.EventFilter, told func(router.Event)) error {
	told(router.Event{Text: "secret"})
	return nil
}
func (*pretended) Doctor(context.Context, router.DoctorOptions) (*doctor.Report, error) {
	return &doctor.Report{Interfaces: []string{"secret"}}, nil
}
func (*pretended) WhoIs(who []string) ([]config.Entry, error) {
	entry, err := config.ParseEntry(config.KindDevice, who[0])
	return []config.Entry{entry}, err
}
func (p *pretended) Exclude(_ context.Context, _ bool, rules config.Rules, o router.ExcludeOptions) ([]config.Change, []string, error) {
	p.changed = append(p.changed, rules[0].Words()+" by "+o.By)
	return nil, nil, nil
}
func (p *pretended) BackToTor(_ context.Context, who []string, o router.ExcludeOptions) ([]config.Change, []string, error) {
	p.changed = append(p.changed, who[0]+" back by "+o.By)
	return nil, nil, nil
}

// takenOver is who owns the process that serves the page: he has the other end of the conduit,
// and says what he likes.
type takenOver struct {
	t      *testing.T
	client *http.Client
	cookie string
	key    string
}

func takeOver(t *testing.T, h http.Handler) *takenOver {
	t.Helper()
	ours, theirs, err := conduit.New()
	if err != nil {
		t.Fatal(err)
	}
	server := Server(h)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ours) }()
	dialer, err := conduit.NewDialer(theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return &takenOver{t: t, client: &http.Client{Transport: &http.Transport{DialContext: dialer.Dial}}}
}

// ask says that the page itself asks.
func (o *takenOver) ask(method, path, body string) (int, string, http.Header) {
	o.t.Helper()
	r, err := http.NewRequestWithContext(o.t.Context(), method, "http://127.0.0.1:9959"+path, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Origin", "http://127.0.0.1:9959")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cookie", o.cookie)
	r.Header.Set(access.KeyHeader, o.key)
	answer, err := o.client.Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

const aDevice = "02:00:5e:10:00:01"

// TestWhoOwnsTheWebProcessGetsMetricsAlone: whatever he says through the conduit, he reads and
// changes nothing without a session, and with one what the page may do.
func TestWhoOwnsTheWebProcessGetsMetricsAlone(t *testing.T) {
	r, k := &pretended{}, access.New()
	o := takeOver(t, Page(r, "test", k, "/nowhere"))
	word, _ := k.Invite()
	all := []string{
		"/v1/status", "/v1/devices", "/v1/doctor", "/v1/tor", "/v1/tor/circuits?targets=1", "/v1/tor/newnym", "/v1/events", "/v1/events?follow=1", "/v1/devices/" + aDevice + "/policy", "/v1/session",
		"/v1/page/login", "/v1/page/sessions", "/v1/anything", "//v1/status", "/metrics/../v1/status", "/", "/v1/", "/debug/pprof/",
	}
	methods := []string{"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "PROPFIND"}
	for _, path := range all {
		for _, method := range methods {
			code, text, _ := o.ask(method, path, `{"policy":"direct","seconds":600}`)
			if code == http.StatusOK || strings.Contains(text, "secret") || len(r.changed) > 0 {
				t.Errorf("%s %s: %d %s, %v", method, path, code, text, r.changed)
			}
		}
	}

	code, text, header := o.ask("POST", "/v1/session/link", `{"word":"`+word+`"}`)
	var granted struct{ Key string }
	if err := json.Unmarshal([]byte(text), &granted); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	o.cookie, _, _ = strings.Cut(header.Get("Set-Cookie"), ";")
	o.key = granted.Key
	for _, path := range []string{"/v1/page/login", "/v1/page/sessions", "/v1/anything", "/", "/debug/pprof/"} {
		for _, method := range methods {
			if code, text, _ := o.ask(method, path, `{}`); code == http.StatusOK {
				t.Errorf("with a session, %s %s: %d %s", method, path, code, text)
			}
		}
	}
	for path, want := range map[string]string{"/v1/status": "secret", "/v1/devices": "secret", "/v1/doctor": "secret", "/v1/tor": "secret", "/v1/tor/circuits?targets=1": "secret", "/v1/events": "secret"} {
		if code, text, _ := o.ask("GET", path, ""); code != http.StatusOK || !strings.Contains(text, want) || strings.Contains(text, "bank.example") {
			t.Errorf("with a session, %s: %d %s", path, code, text)
		}
	}
	for _, body := range []string{`{"policy":"direct","seconds":600}`, `{"policy":"block"}`, `{"policy":"tor"}`} {
		if code, text, _ := o.ask("PUT", "/v1/devices/"+aDevice+"/policy", body); code != http.StatusOK {
			t.Errorf("%s: %d %s", body, code, text)
		}
	}
	if code, _, _ := o.ask("PUT", "/v1/devices/"+aDevice+"/policy", `{"policy":"block","comment":"`+strings.Repeat("x", 1<<20)+`"}`); code != http.StatusBadRequest {
		t.Errorf("a body of a mebibyte: %d", code)
	}
	for _, body := range []string{"", `{"device":"tv"}`} {
		if code, text, _ := o.ask("POST", "/v1/tor/newnym", body); code != http.StatusOK {
			t.Errorf("new circuits for %q: %d %s", body, code, text)
		}
	}
	const changes = 5
	if len(r.changed) != changes {
		t.Errorf("it has changed %q", r.changed)
	}
	for _, c := range r.changed {
		if !strings.HasSuffix(c, " by the page") {
			t.Errorf("the audit has %s", c)
		}
	}
	k.EndAll()
	if code, text, _ := o.ask("PUT", "/v1/devices/"+aDevice+"/policy", `{"policy":"direct"}`); code != http.StatusUnauthorized || len(r.changed) != changes {
		t.Errorf("behind the session: %d %s", code, text)
	}
}

// TestTheMetricsAreNoWayToThePage, where that is not wanted.
func TestTheMetricsAreNoWayToThePage(t *testing.T) {
	k := access.New()
	o := takeOver(t, Metrics(&pretended{}, "test"))
	word, _ := k.Invite()
	if code, text, _ := o.ask("POST", "/v1/session/link", `{"word":"`+word+`"}`); code != http.StatusNotFound {
		t.Errorf("%d %s", code, text)
	}
}

// TestALinkWaitsForThePage: what serves it comes up a moment after the API, or does not.
func TestALinkWaitsForThePage(t *testing.T) {
	places := &router.Served{Web: config.Default().Web, Places: []router.WebPlace{{Addr: config.Default().Web.Listen[0]}}}
	for what, c := range map[string]struct {
		after time.Duration
		code  int
		says  string
	}{
		"in time": {startPatience - time.Second, http.StatusOK, "http://127.0.0.1:9959/#"},
		"never":   {startPatience + time.Second, http.StatusInternalServerError, "does not come up"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				served := func() *router.Served {
					if time.Since(start) < c.after {
						return nil
					}
					return places
				}
				w := httptest.NewRecorder()
				Door{access.New(), served}.login(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/page/login", nil))
				if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		})
	}
}

// TestRootOpensTheDoor: by a link to where the page is served, and closes it.
func TestRootOpensTheDoor(t *testing.T) {
	k := access.New()
	var served *router.Served
	o := takeOver(t, New(&pretended{}, "test", Door{k, func() *router.Served { return served }}))
	for what, s := range map[string]*router.Served{
		"no address":   {Web: config.Web{Page: true}},
		"metrics only": {Places: []router.WebPlace{{Addr: config.Default().Web.Listen[0]}}},
	} {
		served = s
		if code, text, _ := o.ask("POST", "/v1/page/login", ""); code != http.StatusBadRequest || !strings.Contains(text, "[web]") {
			t.Errorf("%s: %d %s", what, code, text)
		}
	}
	served = &router.Served{Web: config.Default().Web, Places: []router.WebPlace{{Addr: config.Default().Web.Listen[0]}}}
	_, text, _ := o.ask("POST", "/v1/page/login", "")
	var login Login
	if err := json.NewDecoder(bytes.NewReader([]byte(text))).Decode(&login); err != nil {
		t.Fatal(err)
	}
	word, ok := strings.CutPrefix(login.URL, "http://127.0.0.1:9959/#")
	if left := time.Until(login.Ends); !ok || left <= 0 || left > 5*time.Minute {
		t.Errorf("the link is %+v", login)
	}
	if _, err := k.ByInvite(word); err != nil {
		t.Error(err)
	}
	if _, text, _ := o.ask("DELETE", "/v1/page/sessions", ""); !strings.Contains(text, `"ended":1`) {
		t.Errorf("it says %s", text)
	}
}
