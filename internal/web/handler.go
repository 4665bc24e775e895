package web

import (
	"context"
	"embed"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path"
	"time"

	"github.com/torbpf/torbpf/internal/access"
)

// files are the page.
//
//go:embed page
var files embed.FS

// types are those of its files; a file of another is not served.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// policy is what a browser lets the page do: run and show its own files, and ask where it came
// from. No text becomes HTML or a script, whoever has chosen it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// passed is what of the API the page may ask; internal/api judges that once more.
var passed = []string{
	"GET /v1/session",
	"DELETE /v1/session",
	"POST /v1/session/link",
	"GET /v1/status",
	"GET /v1/devices",
	"GET /v1/doctor",
	"GET /v1/tor",
	"GET /v1/tor/circuits",
	"POST /v1/tor/newnym",
	"PUT /v1/devices/{device}/policy",
}

// newHandler serves what strangers may see: metrics, some of them, and the page if it is wanted.
func newHandler(dial func(ctx context.Context, network, addr string) (net.Conn, error), cfg Config) http.Handler {
	behind := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "api"})
			r.Out.Host = r.In.Host // internal/access looks at it
		},
		Transport:    &http.Transport{DialContext: dial, MaxIdleConns: 4, IdleConnTimeout: time.Minute},
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ErrorHandler: unanswered,
	}
	mux := http.NewServeMux()
	metrics := http.Handler(behind)
	if !cfg.MetricsEverywhere {
		metrics = fromHere(behind)
	}
	mux.Handle("GET /metrics", metrics)
	if cfg.Page {
		for _, pattern := range passed {
			mux.Handle(pattern, access.SameOrigin(behind))
		}
		// What another site sends is no attempt of the client's.
		mux.Handle("POST /v1/session", access.SameOrigin(newAttempts().paced(behind)))
		mux.Handle("GET /v1/events", access.SameOrigin(unhurried(behind)))
		serveFiles(mux)
	}
	return knownHost(guarded(http.MaxBytesHandler(mux, maxBody)))
}

// unanswered says why nothing came from behind.
func unanswered(w http.ResponseWriter, _ *http.Request, err error) {
	var much *http.MaxBytesError
	if errors.As(err, &much) {
		http.Error(w, "That is more than anybody has to say.", http.StatusRequestEntityTooLarge)
		return
	}
	http.Error(w, "torbpf run does not answer", http.StatusBadGateway)
}

// serveFiles serves the page's files, and nothing beside them.
func serveFiles(mux *http.ServeMux) {
	entries, err := files.ReadDir("page")
	if err != nil {
		panic(err) // they are in the program
	}
	for _, e := range entries {
		text, err := files.ReadFile(path.Join("page", e.Name()))
		kind := types[path.Ext(e.Name())]
		if err != nil || kind == "" {
			continue
		}
		pattern := "GET /" + e.Name()
		if e.Name() == "index.html" {
			pattern = "GET /{$}"
		}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write(text) // a client that is gone is nobody's fault
		})
	}
}

// guarded tells browsers to be strict.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy":      policy,
			"X-Content-Type-Options":       "nosniff",
			"X-Frame-Options":              "DENY",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control":                "no-store",
		} {
			w.Header().Set(name, value)
		}
		next.ServeHTTP(w, r)
	})
}

// knownHost refuses requests to a name.
func knownHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !access.KnownHost(r.Host) {
			http.Error(w, "This is to be asked by an address, or as localhost.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fromHere refuses what does not come from this machine by a loopback address: both ends have one, since a
// kernel with route_localnet takes packets to 127.0.0.1 from elsewhere.
func fromHere(next http.Handler) http.Handler {
	loopback := func(addr string) bool {
		at, err := netip.ParseAddrPort(addr)
		return err == nil && at.Addr().IsLoopback()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if !ok || !loopback(local.String()) || !loopback(r.RemoteAddr) {
			http.Error(w, "Metrics are for this machine alone, by a loopback address: they name devices. "+
				`metrics = "everywhere" below [web] in its configuration has everybody who gets this far read them.`, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// unhurried lets an answer take as long as somebody reads it.
func unhurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&patient{w, http.NewResponseController(w)}, r)
	})
}

// patient gives each write the time that a whole answer has elsewhere.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Write implements http.ResponseWriter.
func (p *patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
