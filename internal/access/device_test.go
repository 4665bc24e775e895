package access

import (
	"fmt"
	"net/http"
	"testing"
)

// TestNobodyLocksOutABrowserThatIsKnown: its attempts are its own, and few as well.
func TestNobodyLocksOutABrowserThatIsKnown(t *testing.T) {
	k := New()
	file := passwordIn(t)
	p := newPage(t, k, file)
	p.byLink(k)
	known := p.device
	if !known.HttpOnly || known.SameSite != http.SameSiteStrictMode || known.Path != "/v1/session" || known.MaxAge <= 0 {
		t.Errorf("it is known by %v", known)
	}
	stranger := newPage(t, k, file)
	try := func(what string, want int, body string, change func(*http.Request)) {
		t.Helper()
		if w := stranger.ask("POST", "/v1/session", body, change); w.Code != want {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	wrong, right := `{"password":"wrong"}`, `{"password":"`+password+`"}`
	as := func(value string) func(*http.Request) {
		return func(r *http.Request) {
			r.AddCookie(&http.Cookie{Name: deviceName, Value: value})
			r.Header.Set(SpentHeader, "7")
		}
	}
	try("whose address has used up its attempts", http.StatusTooManyRequests, right, func(r *http.Request) { r.Header.Set(SpentHeader, "7") })
	try("who invents a cookie", http.StatusTooManyRequests, right, as("invented"))
	k.attempts = NewBucket(0, attemptPause) // strangers have used them up
	try("a stranger", http.StatusTooManyRequests, right, nil)
	try("a browser that is known", http.StatusOK, right, as(known.Value))
	for range deviceBurst - 1 {
		try("a browser that is known, and wrong", http.StatusUnauthorized, wrong, as(known.Value))
	}
	try("too often", http.StatusTooManyRequests, right, as(known.Value))
	k.EndAll()
	try("all has ended", http.StatusTooManyRequests, right, as(known.Value))
}

// TestFewBrowsersAreKnown, and the same one is known once.
func TestFewBrowsersAreKnown(t *testing.T) {
	k := New()
	p := newPage(t, k, "/nowhere")
	for i := range 2 * maxDevices {
		p.byLink(k)
		if want := min(i+1, maxDevices); len(k.devices) != want {
			t.Fatalf("%d are known, want %d", len(k.devices), want)
		}
	}
	word, _ := k.Invite()
	w := p.ask("POST", "/v1/session/link", fmt.Sprintf(`{"word":%q}`, word), func(r *http.Request) { r.AddCookie(p.device) })
	if w.Code != http.StatusOK || w.Result().Cookies()[1].Value != p.device.Value {
		t.Errorf("%d: the browser is known as another", w.Code)
	}
}
