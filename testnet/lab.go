package testnet

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options select what a lab contains. The zero value is everything but the second
// LAN.
type Options struct {
	NoTor        bool // no Tor network: up in well under two seconds
	SecondLAN    bool // eth2 on the router with client3
	NoRouterDNS  bool // the router's port 53 is left to a resolver of the test's
	MasqueradeV6 bool // hide IPv6 behind the WAN address instead of routing it
	Bare         bool // nothing at all: whoever starts it adds nodes and links

	// Logf, when set, receives progress. New sets it to the test's.
	Logf func(format string, args ...any)
}

// Lab is a running network. Its methods may be called concurrently once Start
// has returned.
type Lab struct {
	Router, Switch, ISP, Internet *Node
	Client1, Client2              *Node
	Client3                       *Node // nil without Options.SecondLAN

	Web       *Services  // web and echo servers of the internet
	Forwarded *Services  // what the router's port forwards lead to
	DNS       *DNSServer // the resolver of ISP and exits: a leak oracle
	RouterDNS *DNSServer // the router's own forwarding resolver; nil with Options.NoRouterDNS
	Tor       *TorNet    // nil with Options.NoTor

	opts      Options
	forwarder *forwarder // behind RouterDNS
	id        string
	dir       string
	started   time.Time
	roots     *x509.CertPool // trusts the web servers
	links     atomic.Int32
	running   context.Context
	stop      context.CancelFunc // ends running, and with it all commands

	mu      sync.Mutex
	nodes   []*Node
	closers []io.Closer // closed last to first
	closed  bool
}

var labsStarted atomic.Int64

// Start brings a lab up. On failure nothing of it is left. It also removes what
// labs of ended processes left behind.
func Start(ctx context.Context, opts Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start lab: namespaces need root; run as root")
	}
	if err := SweepStale(); err != nil {
		return nil, fmt.Errorf("sweep stale labs: %w", err)
	}
	if opts.Logf == nil {
		opts.Logf = func(string, ...any) {}
	}
	l := &Lab{opts: opts, id: newLabID(), started: time.Now()}
	l.running, l.stop = context.WithCancel(context.Background())
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start lab: %w", err), l.Close())
	}
	return l, nil
}

// newLabID is unique among the labs of this machine: one process may run several.
func newLabID() string {
	id := fmt.Sprintf("tl%d", os.Getpid())
	if n := labsStarted.Add(1); n > 1 {
		id += fmt.Sprintf("x%d", n)
	}
	return id
}

func (l *Lab) start(ctx context.Context) error {
	var err error
	if l.dir, err = os.MkdirTemp("", l.id+"-"); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	// A tor that drops root must be able to read its torrc here.
	if err := os.Chmod(l.dir, 0o755); err != nil {
		return fmt.Errorf("open directory to all: %w", err)
	}
	steps := []struct {
		name string
		run  func(context.Context) error
		skip bool
	}{
		{"topology", l.buildTopology, l.opts.Bare},
		{"servers", l.startServices, l.opts.Bare},
		{"resolvers", l.startResolvers, l.opts.Bare},
		{"tor network", l.startTor, l.opts.NoTor || l.opts.Bare},
	}
	for _, step := range steps {
		if step.skip {
			continue
		}
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		l.logf("%s up", step.name)
	}
	return nil
}

// TB is the part of testing.TB that New needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
}

// New starts a lab for a test and closes it at the test's end.
func New(t TB, opts Options) *Lab {
	t.Helper()
	if opts.Logf == nil {
		opts.Logf = t.Logf
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	l, err := Start(ctx, opts)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// Dir is a directory of the lab's own, readable by all and gone with it.
func (l *Lab) Dir() string { return l.dir }

// Close ends everything the lab started and whatever else runs in its namespaces,
// then removes namespaces and files. Further calls do nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	closers, nodes, closed := l.closers, l.nodes, l.closed
	l.closers, l.nodes, l.closed = nil, nil, true
	l.mu.Unlock()
	if closed {
		return nil
	}
	l.stop()
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i].Close())
	}
	for _, n := range nodes {
		errs = append(errs, n.close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// closeLater registers c for Close; a lab closed meanwhile closes it at once.
func (l *Lab) closeLater(c io.Closer) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.closers = append(l.closers, c)
	}
	l.mu.Unlock()
	if closed {
		c.Close()
	}
}

func (l *Lab) logf(format string, args ...any) {
	l.opts.Logf("testnet %6.2fs %s", time.Since(l.started).Seconds(), fmt.Sprintf(format, args...))
}

// waitFor polls until done reports true or an error, or ctx ends.
func waitFor(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
