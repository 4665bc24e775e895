// Package web serves metrics and the page by TCP. It is a process of its own without privileges
// (internal/confined): what it reads from strangers cannot do more than what the API lets through
// the conduit that it was handed, where internal/access asks each request for its session.
//
//	Prometheus ── GET /metrics ──▶ torbpf-web (nobody) ── conduit ──▶ torbpf run: API
//	a browser ─── / ─────────────▶ the files of page/
//	          ─── /v1/… ─────────▶              …       ── conduit ──▶ internal/access, API
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
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/conduit"
	"github.com/torbpf/torbpf/internal/confined"
)

// role names the process.
const role = confined.Role("web")

// Config is what the process must know; it travels as JSON.
type Config struct {
	Places []Place `json:"places"`
	Page   bool    `json:"page"` // beside metrics
	// MetricsEverywhere has metrics at all places; otherwise they are for this machine alone.
	MetricsEverywhere bool `json:"metrics_everywhere"`
}

// Place is where it listens.
type Place struct {
	Addr      netip.AddrPort `json:"addr"`
	Interface string         `json:"interface"` // by which it is reached, and no other; "" for any
}

// Limits of what strangers can make the process hold.
const (
	maxClients   = 64 // connections to each place
	maxOfClient  = 16 // of these
	maxOpenFiles = 512
	maxHeader    = 16 << 10
	maxBody      = 8 << 10
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
	server := newServer(newHandler(dialer.Dial, cfg), askTime, answerTime)
	served := make(chan error, len(cfg.Places))
	for _, place := range cfg.Places {
		l, err := place.listen(ctx)
		if err != nil {
			return errors.Join(fmt.Errorf("serve metrics: %w; choose another address by [web] listen", err), server.Close())
		}
		go func() { served <- server.Serve(newFair(l, place.bits6())) }()
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

// newServer bounds how long a client may take to ask, and for each answer.
func newServer(h http.Handler, ask, answer time.Duration) *http.Server {
	return &http.Server{
		Handler: h, MaxHeaderBytes: maxHeader,
		ReadTimeout: ask, WriteTimeout: answer, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // it would name clients
	}
}

// bits6 are those of an address of IPv6 that are one client.
func (p Place) bits6() int {
	if p.Interface != "" || p.Addr.Addr().IsLoopback() {
		return bitsLAN
	}
	return bitsElse
}

// listen opens the place. Its address alone would let in what is sent there by way of another
// interface, such as an uplink: the kernel takes an address for all of this machine's.
func (p Place) listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	if p.Interface != "" {
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var bound error
			err := c.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), p.Interface) })
			return errors.Join(err, bound)
		}
	}
	return lc.Listen(ctx, "tcp", p.Addr.String())
}
