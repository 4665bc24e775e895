// Package api serves what the commands do by HTTP (docs/API.md): over a unix socket for root,
// and a part of it through a conduit for the process that serves metrics and the page. It
// changes nothing but by the same steps of internal/router that the commands take. Root's socket
// has no account of its own: whoever holds a connection may do all of it. Through the conduit
// only who has a session of internal/access gets more than metrics.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/metrics"
	"github.com/torbpf/torbpf/internal/router"
)

// Router is what the API serves; a router.Router is one.
type Router interface {
	metrics.Source
	Events(ctx context.Context, f router.EventFilter, told func(router.Event)) error
	Tor
	WhoIs(who []string) ([]config.Entry, error)
	Exclude(ctx context.Context, remove bool, rules config.Rules, o router.ExcludeOptions) ([]config.Change, []string, error)
	BackToTor(ctx context.Context, who []string, o router.ExcludeOptions) ([]config.Change, []string, error)
	Doctor(ctx context.Context, o router.DoctorOptions) (*doctor.Report, error)
}

// New returns the API for root. version is that of this program, for the metrics.
func New(r Router, version string, door Door) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", Metrics(r, version))
	api{r, byAPI}.register(mux, newBounds())
	door.register(mux)
	return mux
}

// register adds what root and the page may do. What the page is not for belongs into New.
func (a api) register(mux *http.ServeMux, b *bounds) {
	for pattern, h := range map[string]http.HandlerFunc{
		"GET /v1/status":                  a.status,
		"GET /v1/devices":                 a.devices,
		"GET /v1/tor":                     a.tor,
		"GET /v1/tor/circuits":            a.circuits,
		"POST /v1/tor/newnym":             a.newnym,
		"GET /v1/doctor":                  b.oneDoctor(a.doctor),
		"GET /v1/events":                  a.events,
		"PUT /v1/devices/{device}/policy": a.setPolicy,
	} {
		mux.Handle(pattern, b.bounded(h))
	}
}

// Metrics returns the part of the API that strangers may see, who get nothing else should they take over
// the process that serves them.
func Metrics(r metrics.Source, version string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(r, version), promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	return mux
}

func registry(r metrics.Source, version string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "torbpf_build_info", Help: "The torbpf that runs.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	registry.MustRegister(info, metrics.NewCollector(r), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

type api struct {
	router Router
	by     string // who changes something, in the audit
}

func (a api) status(w http.ResponseWriter, r *http.Request) {
	s, err := a.router.Status(r.Context())
	reply(w, s, err)
}

// doctor judges what is attached, and the interfaces of ?interface=, as often as need be.
func (a api) doctor(w http.ResponseWriter, r *http.Request) {
	report, err := a.router.Doctor(r.Context(), router.DoctorOptions{Interfaces: r.URL.Query()["interface"]})
	reply(w, report, err)
}

func (a api) devices(w http.ResponseWriter, _ *http.Request) {
	found, err := a.router.Devices()
	reply(w, map[string]any{"schema": router.DevicesSchema, "devices": append([]router.DeviceStatus{}, found...)}, err)
}

// Policy is what a device is to be under from now on.
type Policy struct {
	Policy  config.Policy `json:"policy"`  // "tor", "direct" or "block"
	Seconds uint32        `json:"seconds"` // how long; 0: until it is changed
	Comment string        `json:"comment"`
}

// maxBody is more than anybody has to say, in bytes.
const maxBody = 4 << 10

// Who changes something, in the audit.
const (
	byAPI  = "the API"
	byPage = "the page"
)

func (a api) setPolicy(w http.ResponseWriter, r *http.Request) {
	var p Policy
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	in.DisallowUnknownFields()
	if err := in.Decode(&p); err != nil {
		fail(w, config.Invalid("read the policy: %v", err))
		return
	}
	changes, warnings, err := a.change(r, p)
	reply(w, map[string]any{"schema": 1, "changes": append([]config.Change{}, changes...), "warnings": append([]string{}, warnings...)}, err)
}

func (a api) change(r *http.Request, p Policy) ([]config.Change, []string, error) {
	who := []string{r.PathValue("device")}
	o := router.ExcludeOptions{By: a.by, Life: time.Duration(p.Seconds) * time.Second}
	switch p.Policy {
	case config.PolicyTor:
		if p.Seconds != 0 {
			return nil, nil, config.Invalid("a device is back on Tor for good: leave seconds out")
		}
		return a.router.BackToTor(r.Context(), who, o)
	case config.PolicyDirect, config.PolicyBlock:
	default:
		return nil, nil, config.Invalid("%q is no policy for a device: tor, direct or block", p.Policy)
	}
	entries, err := a.router.WhoIs(who)
	if err != nil {
		return nil, nil, err
	}
	o.Devices = true
	rule := config.Rule{Entry: entries[0], Policy: p.Policy, Comment: p.Comment}
	return a.router.Exclude(r.Context(), false, config.Rules{rule}, o)
}

// reply writes what was read or done as JSON, or what went wrong.
func reply(w http.ResponseWriter, body any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // a client that is gone is nobody's fault
}

// fail says what went wrong, by an object with an error and by the status.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, config.ErrInvalid):
		status = http.StatusBadRequest
	case errors.Is(err, router.ErrNotAttached):
		status = http.StatusConflict
	case errors.Is(err, router.ErrBusy), errors.As(err, new(errMuch)):
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

// events streams events, a JSON object a line.
func (a api) events(w http.ResponseWriter, r *http.Request) {
	f, err := eventFilter(r)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, begun := http.NewResponseController(w), false
	encoder := json.NewEncoder(w)
	err = a.router.Events(r.Context(), f, func(e router.Event) {
		begun = true
		_ = encoder.Encode(e) // a client that is gone ends the request's context
		_ = out.Flush()
	})
	if err != nil && !begun {
		fail(w, err)
	} else if err != nil {
		_, _ = fmt.Fprintf(w, "{\"error\":%q}\n", err.Error())
	}
}

// eventFilter reads ?device=, ?kind= and ?reason= (as often as need be), ?since=10m and
// ?follow=1.
func eventFilter(r *http.Request) (router.EventFilter, error) {
	query := r.URL.Query()
	f := router.EventFilter{Device: query.Get("device"), Reasons: query["reason"], Follow: query.Get("follow") == "1"}
	for _, k := range query["kind"] {
		f.Kinds = append(f.Kinds, router.EventKind(k))
	}
	if since := query.Get("since"); since != "" {
		d, err := time.ParseDuration(since)
		if err != nil {
			return f, config.Invalid("since=%s: give a time such as 10m", since)
		}
		f.Since = time.Now().Add(-d)
	}
	return f, nil
}

// patience bounds how slowly a client may send its question.
const patience = 10 * time.Second

// Server serves an API on a listener until it is closed.
func Server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: patience, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
}
