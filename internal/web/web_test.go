package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/access"
)

// testAskTime is how long clients of the tests may take to ask, and answers to be read.
const testAskTime = time.Second

// served is the handler in front of an API that says what it was asked, and who asks it.
type served struct {
	t    *testing.T
	http *httptest.Server
}

func serve(t *testing.T, page bool, api http.Handler) *served {
	t.Helper()
	behind := httptest.NewServer(api)
	t.Cleanup(behind.Close)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", behind.Listener.Addr().String())
	}
	front := httptest.NewUnstartedServer(nil)
	front.Config = newServer(newHandler(dial, Config{Page: page}), testAskTime, testAskTime)
	front.Start()
	t.Cleanup(front.Close)
	return &served{t, front}
}

// echo says what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "behind: %s %s for %s", r.Method, r.URL, r.Host)
}

func (s *served) ask(method, path, body string, change func(*http.Request)) (int, string, http.Header) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.http.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

// asPage says what the page itself does.
func asPage(r *http.Request) { r.Header.Set("Content-Type", "application/json") }

// TestOtherSitesUseUpNoAttempts at the password, which would keep out who has it.
func TestOtherSitesUseUpNoAttempts(t *testing.T) {
	s := serve(t, true, http.HandlerFunc(echo))
	for range 3 * attemptBurst {
		if code, text, _ := s.ask("POST", "/v1/session", "{}", func(r *http.Request) { r.Header.Set("Origin", "http://site.example") }); code != http.StatusForbidden {
			t.Errorf("%d %s", code, text)
		}
	}
	for i := range attemptBurst + 1 {
		if code, text, _ := s.ask("POST", "/v1/session", "{}", asPage); (code == http.StatusOK) != (i < attemptBurst) {
			t.Errorf("attempt %d: %d %s", i, code, text)
		}
	}
	for range 3 * attemptBurst {
		if code, text, _ := s.ask("POST", "/v1/session/link", "{}", asPage); code != http.StatusOK {
			t.Errorf("the link has to wait: %d %s", code, text)
		}
	}
}

// TestNothingElseIsPassedOn than what the page may ask.
func TestNothingElseIsPassedOn(t *testing.T) {
	s := serve(t, true, http.HandlerFunc(echo))
	host := strings.TrimPrefix(s.http.URL, "http://")
	for _, what := range []string{"GET /metrics", "GET /v1/session", "POST /v1/session", "POST /v1/session/link", "DELETE /v1/session", "GET /v1/status", "GET /v1/devices", "GET /v1/doctor", "GET /v1/tor", "GET /v1/tor/circuits", "POST /v1/tor/newnym", "GET /v1/events?follow=1", "PUT /v1/devices/tv/policy"} {
		method, path, _ := strings.Cut(what, " ")
		if _, text, _ := s.ask(method, path, "{}", asPage); text != "behind: "+what+" for "+host {
			t.Errorf("%s: %s", what, text)
		}
	}
	for _, what := range []string{
		"POST /v1/page/login", "DELETE /v1/page/sessions", "POST /v1/status", "PUT /v1/session", "GET /v1/devices/tv/policy", "POST /v1/devices/tv/policy",
		"GET /v1/anything", "GET /v1/", "GET //v1/page/login", "GET /debug/pprof/", "GET /page/", "GET /index.html", "GET /../handler.go", "PATCH /metrics", "OPTIONS /v1/status", "CONNECT /v1/status",
	} {
		method, path, _ := strings.Cut(what, " ")
		if code, text, _ := s.ask(method, path, "{}", nil); code == http.StatusOK || strings.Contains(text, "behind") {
			t.Errorf("%s: %d %s", what, code, text)
		}
	}
	metrics := serve(t, false, http.HandlerFunc(echo))
	for _, path := range []string{"/", "/main.js", "/v1/status", "/v1/session", "/v1/events"} {
		if code, text, _ := metrics.ask("GET", path, "", nil); code != http.StatusNotFound {
			t.Errorf("without the page, %s: %d %s", path, code, text)
		}
	}
	if code, text, _ := metrics.ask("GET", "/metrics", "", nil); code != http.StatusOK {
		t.Errorf("metrics: %d %s", code, text)
	}
}

// TestANameIsRefused for whatever it asks.
func TestANameIsRefused(t *testing.T) {
	s := serve(t, true, http.HandlerFunc(echo))
	for _, path := range []string{"/", "/metrics", "/v1/status", "/main.js", "/nowhere"} {
		for _, host := range []string{"site.example", "site.example:9959", "127.0.0.1.site.example", "localhost.site.example"} {
			if code, text, _ := s.ask("GET", path, "", func(r *http.Request) { r.Host = host }); code != http.StatusMisdirectedRequest {
				t.Errorf("%s by %s: %d %s", path, host, code, text)
			}
		}
		for _, host := range []string{"127.0.0.1", "localhost:9959", "[::1]", "[::1]:9959", "192.168.1.1:9959"} {
			if code, text, _ := s.ask("GET", path, "", func(r *http.Request) { r.Host = host }); code == http.StatusMisdirectedRequest {
				t.Errorf("%s by %s: %d %s", path, host, code, text)
			}
		}
	}
}

// TestABodyIsBounded, as it goes by.
func TestABodyIsBounded(t *testing.T) {
	s := serve(t, true, http.HandlerFunc(echo))
	for _, what := range []string{"PUT /v1/devices/tv/policy", "POST /v1/session", "DELETE /v1/session", "POST /v1/tor/newnym"} {
		method, path, _ := strings.Cut(what, " ")
		if code, text, _ := s.ask(method, path, strings.Repeat("x", maxBody+1), asPage); code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", what, code, text)
		}
	}
}

// TestMetricsAreForThisMachineAlone, at both ends of a connection, unless everybody is to read them.
func TestMetricsAreForThisMachineAlone(t *testing.T) {
	for _, c := range []struct {
		to, from string
		here     bool
	}{
		{"127.0.0.1:9959", "127.0.0.1:40000", true},
		{"[::1]:9959", "[::1]:40000", true},
		{"[::ffff:127.0.0.1]:9959", "[::ffff:127.0.0.1]:40000", true},
		{"192.168.1.1:9959", "192.168.1.7:40000", false},
		{"192.168.1.1:9959", "192.168.1.1:40000", false},
		{"127.0.0.1:9959", "192.168.1.7:40000", false},
		{"192.168.1.1:9959", "127.0.0.1:40000", false},
		{"[fe80::1%eth1]:9959", "[fe80::7%eth1]:40000", false},
		{"", "127.0.0.1:40000", false},
	} {
		for _, everywhere := range []bool{false, true} {
			asked := false
			h := newHandler(func(context.Context, string, string) (net.Conn, error) {
				asked = true
				return nil, net.ErrClosed
			}, Config{Page: true, MetricsEverywhere: everywhere})
			r := httptest.NewRequestWithContext(t.Context(), "GET", "http://192.168.1.1:9959/metrics", nil)
			r.RemoteAddr = c.from
			if to, err := netip.ParseAddrPort(c.to); err == nil {
				r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.TCPAddrFromAddrPort(to)))
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			want := c.here || everywhere
			if asked != want || !want && (w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "[web]")) {
				t.Errorf("%q from %s, everywhere %v: %d %s", c.to, c.from, everywhere, w.Code, w.Body)
			}
		}
	}
}

// TestEventsComeAsTheyHappen, for longer than a question may take.
func TestEventsComeAsTheyHappen(t *testing.T) {
	const events = 6 // in three times as long as a client may take to ask
	next := make(chan struct{}, 1)
	s := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := range events {
			<-next
			fmt.Fprintln(w, i)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}
	}))
	answer := make(chan *http.Response)
	go func() {
		r, err := http.Get(s.http.URL + "/v1/events?follow=1")
		if err != nil {
			t.Error(err)
		}
		answer <- r
	}()
	next <- struct{}{}
	r := <-answer
	defer r.Body.Close()
	lines := bufio.NewReader(r.Body)
	happens := time.NewTicker(testAskTime / 2)
	defer happens.Stop()
	for i := range events {
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintln(i) {
			t.Fatalf("it says %q, %v", line, err)
		}
		if i < events-1 {
			<-happens.C
			next <- struct{}{}
		}
	}
}

// TestWhoAsksSlowlyIsCutOff, so that connections do not run out.
func TestWhoAsksSlowlyIsCutOff(t *testing.T) {
	s := serve(t, true, http.HandlerFunc(echo))
	for _, begun := range []string{"", "GET /", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-", "POST /v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(begun)); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * testAskTime)); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q is still waited for: %s", begun, text)
		}
	}
}

// TestOneClientTriesAFewPasswords, whoever else tries some.
func TestOneClientTriesAFewPasswords(t *testing.T) {
	a := newAttempts()
	h := a.paced(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	try := func(from string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/v1/session", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for i := range attemptBurst {
		if w := try("192.168.1.7:1000"); w.Code != http.StatusOK {
			t.Errorf("attempt %d: %d", i, w.Code)
		}
		try("[fd50::7]:1000")
	}
	for from, want := range map[string]int{
		"192.168.1.7:2000": http.StatusTooManyRequests, "[::ffff:192.168.1.7]:2000": http.StatusTooManyRequests, "192.168.1.8:1000": http.StatusOK,
		"[fd50::7]:1": http.StatusTooManyRequests, "[fd50::8]:1": http.StatusOK,
	} {
		if w := try(from); w.Code != want || (want != http.StatusOK) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%s: %d %v", from, w.Code, w.Header())
		}
	}
	for i := range maxAttempts + 1000 {
		try(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1).String())
	}
	if len(a.of) > maxAttempts+1 {
		t.Errorf("it knows %d clients", len(a.of))
	}
}

// TestOneClientDoesNotTakeAllConnections that there are, nor does one with a few addresses: who has many loses them.
func TestOneClientDoesNotTakeAllConnections(t *testing.T) {
	f := newFair(nil, bitsLAN)
	from := func(addr string) *fairConn { return &fairConn{fair: f, who: client(addr, f.bits6)} }
	who := from("192.168.1.7:1")
	for i := range maxOfClient {
		c := who
		if i > 0 {
			c = from("192.168.1.7:1")
		}
		if entered, _ := f.enter(c); !entered {
			t.Errorf("connection %d is refused", i)
		}
	}
	if entered, _ := f.enter(from("192.168.1.7:2")); entered {
		t.Error("it has too many")
	}
	for i := range maxClients - maxOfClient {
		if entered, loses := f.enter(from(fmt.Sprintf("[fd50::%d]:1", i/maxOfClient))); !entered || loses != nil {
			t.Errorf("connection %d of the others: %v, and %v has to go", i, entered, loses)
		}
	}
	other := from("192.168.1.8:1")
	entered, loses := f.enter(other)
	if !entered || loses == nil || loses.who == other.who || f.all != maxClients {
		t.Fatalf("another is taken in: %v, %v goes, and there are %d", entered, loses, f.all)
	}
	f.leave(loses) // as it is closed
	f.leave(other)
	if f.all != maxClients-1 || f.open[other.who] != nil {
		t.Errorf("there are %d connections, and it knows %v", f.all, f.open)
	}
}

// TestAClientIsAnAddressOfTheLAN, and elsewhere what one customer of an ISP has.
func TestAClientIsAnAddressOfTheLAN(t *testing.T) {
	for _, c := range []struct {
		place Place
		same  bool
	}{
		{Place{Addr: netip.MustParseAddrPort("[fd50::1]:9959"), Interface: "lan0"}, false},
		{Place{Addr: netip.MustParseAddrPort("[::1]:9959")}, false},
		{Place{Addr: netip.MustParseAddrPort("[::]:9959")}, true},
	} {
		bits := c.place.bits6()
		if same := client("[fd50::7]:1", bits) == client("[fd50::8]:1", bits); same != c.same {
			t.Errorf("at %s two addresses of a subnet are one client: %v", c.place.Addr, same)
		}
	}
}

// TestABrowserThatIsKnownIsJudgedByRoot, though its address has no attempts left; what a client says itself of that
// counts nothing.
func TestABrowserThatIsKnownIsJudgedByRoot(t *testing.T) {
	var spent []string
	h := newAttempts().paced(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		spent = append(spent, r.Header.Get(access.SpentHeader))
	}))
	for range attemptBurst + 1 {
		r := httptest.NewRequest("POST", "/v1/session", nil)
		r.Header.Set(access.SpentHeader, "forged")
		r.AddCookie(&http.Cookie{Name: "torbpf_device", Value: "x"})
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	if len(spent) != attemptBurst+1 || strings.Join(spent[:attemptBurst], "") != "" || spent[attemptBurst] == "" {
		t.Errorf("root's side is told %q", spent)
	}
}

// TestThePageIsItsOwn: its files come with a policy that lets a browser load nothing else, and
// name nothing else. No text becomes HTML.
func TestThePageIsItsOwn(t *testing.T) {
	s := serve(t, true, http.HandlerFunc(echo))
	paths, err := filepath.Glob("page/*")
	if err != nil || len(paths) < 3 {
		t.Fatalf("%v, %v", paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := "/" + strings.TrimPrefix(filepath.Base(path), "index.html")
		code, got, header := s.ask("GET", at, "", nil)
		if code != http.StatusOK || got != string(text) || header.Get("Content-Type") != types[filepath.Ext(path)] {
			t.Errorf("%s: %d %s", at, code, header)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if header.Get(name) != want {
				t.Errorf("%s: %s is %q", at, name, header.Get(name))
			}
		}
		for _, bad := range []string{`https?://(?:[^w]|w[^w])`, `innerHTML`, `outerHTML`, `insertAdjacentHTML`, `document\.write`, `\beval\b`, `new Function`, `\bon[a-z]+="`, `style="`, `javascript:`} {
			if found := regexp.MustCompile(bad).Find(text); found != nil {
				t.Errorf("%s has %q", path, found)
			}
		}
		if n := strings.Count(string(text), "\n"); n > 400 {
			t.Errorf("%s has %d lines", path, n)
		}
	}
	for _, rule := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(policy, rule) || strings.Contains(policy, "unsafe") {
			t.Errorf("the policy is %s", policy)
		}
	}
	if access.KeyHeader == "" {
		t.Error("there is no header for the key")
	}
	if script, err := os.ReadFile("page/api.js"); err != nil || !strings.Contains(string(script), `"`+access.KeyHeader+`"`) {
		t.Errorf("the page does not send %s: %v", access.KeyHeader, err)
	}
}
