package access

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// page is who asks a Handler.
type page struct {
	t       *testing.T
	handler http.Handler
	cookie  *http.Cookie
	key     string
	device  *http.Cookie // that it is known by
}

// newPage returns one that has no session, and what is behind the handler says "inner".
func newPage(t *testing.T, k *Keeper, passwordFile string) *page {
	inner := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write([]byte("inner")); err != nil {
			t.Error(err)
		}
	})
	return &page{t: t, handler: k.Handler(passwordFile, inner)}
}

// ask asks as the page would, but for what change does.
func (p *page) ask(method, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	p.t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1:9959"+path, strings.NewReader(body))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set(KeyHeader, p.key)
	if p.cookie != nil {
		r.AddCookie(p.cookie)
	}
	if method != http.MethodGet {
		r.Header.Set("Origin", "http://127.0.0.1:9959")
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	return w
}

// signIn begins a session.
func (p *page) signIn(path, body string) {
	p.t.Helper()
	w := p.ask("POST", path, body, nil)
	var g granted
	if err := json.Unmarshal(w.Body.Bytes(), &g); err != nil || w.Code != http.StatusOK || len(w.Result().Cookies()) != 2 {
		p.t.Fatalf("%d %s", w.Code, w.Body)
	}
	p.key, p.cookie, p.device = g.Key, w.Result().Cookies()[0], w.Result().Cookies()[1]
}

// byLink begins a session as who has a link of root's.
func (p *page) byLink(k *Keeper) {
	p.t.Helper()
	word, _ := k.Invite()
	p.signIn("/v1/session/link", `{"word":"`+word+`"}`)
}

func TestNothingWithoutASession(t *testing.T) {
	k := New()
	p := newPage(t, k, passwordIn(t))
	for _, path := range []string{"/v1/status", "/v1/devices", "/v1/events?follow=1", "/v1/session", "/v1/session/link", "/v1/devices/tv/policy", "/v1/whatever"} {
		for _, method := range []string{"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"} {
			if strings.HasPrefix(path, "/v1/session") && method == "POST" {
				continue
			}
			if w := p.ask(method, path, `{}`, nil); w.Code != http.StatusUnauthorized && w.Code != http.StatusMethodNotAllowed || strings.Contains(w.Body.String(), "inner") {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
	if w := p.ask("GET", "/v1/status", "", nil); !strings.Contains(w.Body.String(), `"password":true`) {
		t.Errorf("it does not say that there is a password: %s", w.Body)
	}
	if w := newPage(t, k, "/nowhere").ask("GET", "/v1/status", "", nil); !strings.Contains(w.Body.String(), `"password":false`) {
		t.Errorf("it does not say that there is none: %s", w.Body)
	}
}

func TestTheSessionOfAPage(t *testing.T) {
	k := New()
	p := newPage(t, k, passwordIn(t))
	for body, path := range map[string]string{
		`{}`: "/v1/session", `{"password":"x"}`: "/v1/session", `{"password":""}`: "/v1/session", `{"word":"x"}`: "/v1/session/link", `{"word":""}`: "/v1/session/link",
		`{"password":"` + password + `"}`: "/v1/session/link",
	} {
		if w := p.ask("POST", path, body, nil); w.Code != http.StatusUnauthorized || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	for _, body := range []string{``, `nonsense`, `{"user":"root"}`, `{"password":"` + strings.Repeat("x", 2<<10) + `"}`} {
		if w := p.ask("POST", "/v1/session", body, nil); w.Code != http.StatusBadRequest || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%.40s: %d %s", body, w.Code, w.Body)
		}
	}
	p.signIn("/v1/session", `{"password":"`+password+`"}`)
	if c := p.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.MaxAge != 0 || !c.Expires.IsZero() || c.Path != "/v1" {
		t.Errorf("the cookie is %v", c)
	}
	if w := p.ask("GET", "/v1/status", "", nil); w.Code != http.StatusOK || w.Body.String() != "inner" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
	for what, change := range map[string]func(*http.Request){
		"the cookie alone": func(r *http.Request) { r.Header.Del(KeyHeader) },
		"the key alone":    func(r *http.Request) { r.Header.Del("Cookie") },
		"another key":      func(r *http.Request) { r.Header.Set(KeyHeader, "x"+p.key[1:]) },
	} {
		if w := p.ask("GET", "/v1/status", "", change); w.Code != http.StatusUnauthorized {
			t.Errorf("%s: %d", what, w.Code)
		}
	}
	if w := p.ask("DELETE", "/v1/session", "", nil); w.Code != http.StatusOK {
		t.Errorf("sign out: %d %s", w.Code, w.Body)
	}
	if w := p.ask("GET", "/v1/session", "", nil); w.Code != http.StatusUnauthorized {
		t.Errorf("signed out: %d", w.Code)
	}
}

// TestOtherSitesAreRefused, with a session, too: a browser would send it.
func TestOtherSitesAreRefused(t *testing.T) {
	k := New()
	p := newPage(t, k, "/nowhere")
	p.byLink(k)
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, c := range []struct {
		what   string
		change func(*http.Request)
		want   int
	}{
		{"another site", header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		{"another port of this machine", header("Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		{"typed", header("Sec-Fetch-Site", "none"), http.StatusForbidden},
		{"another origin", header("Origin", "http://site.example"), http.StatusForbidden},
		{"another port's origin", header("Origin", "http://127.0.0.1:8080"), http.StatusForbidden},
		{"an origin that is hidden", header("Origin", "null"), http.StatusForbidden},
		{"by TLS", header("Origin", "https://127.0.0.1:9959"), http.StatusForbidden},
		{"a name that points here", func(r *http.Request) { r.Host = "site.example:9959" }, http.StatusMisdirectedRequest},
		{"one that looks like an address", func(r *http.Request) { r.Host = "127.0.0.1.site.example" }, http.StatusMisdirectedRequest},
		{"no host", func(r *http.Request) { r.Host = "" }, http.StatusMisdirectedRequest},
	} {
		for _, method := range []string{"GET", "PUT", "POST", "DELETE"} {
			for _, path := range []string{"/v1/status", "/v1/session"} {
				if w := p.ask(method, path, `{}`, c.change); w.Code != c.want || w.Header().Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s, %s %s: %d %s", c.what, method, path, w.Code, w.Body)
				}
			}
		}
	}
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"} {
		if w := p.ask("PUT", "/v1/devices/tv/policy", `{}`, header("Content-Type", kind)); w.Code != http.StatusUnsupportedMediaType {
			t.Errorf("a form may send %q: %d", kind, w.Code)
		}
	}
	for _, host := range []string{"localhost:9959", "[::1]:9959", "192.168.1.1", "[fd50::1]"} {
		w := p.ask("PUT", "/v1/devices/tv/policy", `{}`, func(r *http.Request) { r.Host = host; r.Header.Set("Origin", "http://"+host) })
		if w.Code != http.StatusOK {
			t.Errorf("by %s: %d %s", host, w.Code, w.Body)
		}
	}
}

// TestFollowersAreFewAndEndWithTheSession: of the events.
func TestFollowersAreFewAndEndWithTheSession(t *testing.T) {
	k := New()
	begun := make(chan struct{}, maxStreams)
	p := &page{t: t, handler: k.Handler("/nowhere", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
	}))}
	p.byLink(k)
	var following sync.WaitGroup
	follow := func() {
		following.Go(func() { p.ask("GET", "/v1/events?follow=1", "", nil) })
		<-begun
	}
	for range maxStreams {
		follow()
	}
	if w := p.ask("GET", "/v1/events?follow=1", "", nil); w.Code != http.StatusTooManyRequests {
		t.Errorf("one more: %d", w.Code)
	}
	k.EndAll()
	following.Wait()
	p.byLink(k)
	follow()
	k.EndAll()
	following.Wait()
}

// TestACookieOfSomebodyElseSignsNobodyOut: another port of this address may set one with a longer path,
// which comes first.
func TestACookieOfSomebodyElseSignsNobodyOut(t *testing.T) {
	k := New()
	p := newPage(t, k, "/nowhere")
	p.byLink(k)
	first := func(r *http.Request) {
		r.Header.Set("Cookie", cookieName+"=planted; "+r.Header.Get("Cookie"))
	}
	if w := p.ask("GET", "/v1/status", "", first); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := p.ask("DELETE", "/v1/session", "", first); w.Code != http.StatusOK || len(k.sessions) != 0 {
		t.Errorf("sign out: %d %s, and %d sessions are left", w.Code, w.Body, len(k.sessions))
	}
}
