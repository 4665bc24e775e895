// Package web serves the metrics by TCP. It is a process of its own without privileges
// (internal/confined): what it reads from strangers cannot do more than the API, which it
// reaches through the conduit that it was handed.
//
//	Prometheus ── TCP, loopback ──▶ torbpf-web (nobody) ── conduit ──▶ torbpf run: API
//
// It ends with the daemon that has started it.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/netutil"

	"github.com/torbpf/torbpf/internal/conduit"
	"github.com/torbpf/torbpf/internal/confined"
)

// role names the process.
const role = confined.Role("web")

// Config is what the process must know; it travels as JSON.
type Config struct {
	Listen []netip.AddrPort `json:"listen"`
}

// Limits of what strangers can make the process hold.
const (
	maxClients   = 64
	maxOpenFiles = 512
	maxHeader    = 16 << 10
	askTime      = 10 * time.Second
	answerTime   = 30 * time.Second
)

// Spawn starts the process in the network namespace of the calling thread. theirs is the
// child's end of a conduit to the API and stays the caller's, log its standard error. What
// keeps it from serving, such as a port that is taken, is the error.
func Spawn(args []string, cfg Config, theirs, log *os.File) (pid int, starttime uint64, err error) {
	return role.Spawn(confined.Options{
		Args: args, Config: cfg, Files: []*os.File{theirs}, Log: log,
		Env: []string{"GOMAXPROCS=1", "GOMEMLIMIT=32MiB", "GOGC=50"},
	})
}

// Running tells whether the process is still there.
func Running(pid int, starttime uint64) bool { return confined.Running(pid, starttime) }

// Stop ends the process and waits until it is gone.
func Stop(pid int, starttime uint64) error { return role.Stop(pid, starttime) }

// RunChild is the life of the process that Spawn starts.
func RunChild(ctx context.Context) error {
	return confined.RunChild(role, maxOpenFiles, func(cfg Config, ready func() error) error {
		dialer, err := conduit.NewDialer(os.NewFile(confined.FirstFile, "conduit"))
		if err != nil {
			return err
		}
		return run(ctx, cfg, dialer, ready)
	})
}

// run serves until ctx ends, or nobody is at the other end of the conduit any more.
func run(ctx context.Context, cfg Config, dialer *conduit.Dialer, ready func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		dialer.Wait()
		cancel()
	}()
	server := &http.Server{
		Handler: newHandler(dialer), MaxHeaderBytes: maxHeader,
		ReadTimeout: askTime, WriteTimeout: answerTime, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // it would name clients
	}
	served := make(chan error, len(cfg.Listen))
	for _, addr := range cfg.Listen {
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			return errors.Join(fmt.Errorf("serve metrics: %w; choose another address by [web] listen", err), server.Close())
		}
		go func() { served <- server.Serve(netutil.LimitListener(l, maxClients)) }()
	}
	if err := ready(); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case <-ctx.Done():
		return server.Close()
	case err := <-served:
		return errors.Join(err, server.Close())
	}
}

// newHandler serves what strangers may see.
func newHandler(dialer *conduit.Dialer) http.Handler {
	behind := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "api"}) },
		Transport: &http.Transport{DialContext: dialer.Dial, MaxIdleConns: 4, IdleConnTimeout: time.Minute},
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "torbpf run does not answer", http.StatusBadGateway)
		},
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", behind)
	return knownHost(mux)
}

// knownHost refuses requests to a name: a site that has its own name point here would have a
// browser read the answer for it (DNS rebinding).
func knownHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if _, err := netip.ParseAddr(trimBrackets(host)); err != nil && host != "localhost" {
			http.Error(w, "This is to be asked by an address, or as localhost.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// trimBrackets takes those of an IPv6 address without a port.
func trimBrackets(host string) string {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}
