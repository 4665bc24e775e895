package router

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/loader"
)

var errInjected = errors.New("injected failure")

// newTestRouter returns a Router that calls after when it has done a step.
func newTestRouter(t *testing.T, after func(step string) error) *Router {
	t.Helper()
	r, err := New(Options{Version: "test"})
	must(t, err)
	r.fail = after
	return r
}

// failAfter makes one step fail after it was done.
func failAfter(step string) func(string) error {
	return func(done string) error {
		if done == step {
			return errInjected
		}
		return nil
	}
}

func never(string) error { return nil }

// basic is a plain attach to eth1, with a tor that knows of no network.
func basic(t *testing.T) func(*config.Config) {
	t.Helper()
	torrc := filepath.Join(t.TempDir(), "lone.torrc")
	line := "DirAuthority nobody orport=1 v3ident=" + strings.Repeat("A", 40) + " 127.0.0.1:1 " + strings.Repeat("B", 40) + "\n"
	must(t, os.WriteFile(torrc, []byte(line), 0o644))
	return func(c *config.Config) {
		c.Interfaces = []string{"eth1"}
		c.Tor.Torrc = torrc
		c.Rules = config.DirectPrefixes(config.KindDestination, netip.MustParsePrefix("104.16.0.0/13"))
	}
}

// another changes something in every part: interfaces, ports, exclusions.
func another(c *config.Config) {
	c.Interfaces = []string{"eth2", "eth1"}
	c.Tor.TransPort, c.Tor.ResolverPort = 19040, 19054
	c.Tor.Onion4 = netip.MustParsePrefix("172.24.0.0/13")
	c.Inbound = false
	c.Rules = config.DirectPrefixes(config.KindDestination, netip.MustParsePrefix("151.101.0.0/16"), netip.MustParsePrefix("104.16.0.0/13"))
}

// TestFailedAttachLeavesNothing: whichever step fails, those before it are undone
// and the host is as it was.
func TestFailedAttachLeavesNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	edit := basic(t)
	before := look(t, newTestRouter(t, never))
	for _, step := range StepNames() {
		for _, clsact := range []bool{false, true} {
			// Only these steps differ by the kind of hook.
			if clsact && step != "guards" && step != "programs" {
				continue
			}
			reached := false
			r := newTestRouter(t, func(done string) error {
				reached = reached || done == step
				return failAfter(step)(done)
			})
			_, err := r.Attach(t.Context(), func(c *config.Config) { edit(c); c.Clsact = clsact }, AttachOptions{NoWait: true})
			if !errors.Is(err, errInjected) || strings.Contains(err.Error(), "undoing it") || !reached {
				t.Errorf("after %s: %v", step, err)
			}
			checkSame(t, before, look(t, r))
			if t.Failed() {
				t.Fatalf("after a failure of %s", step)
			}
		}
	}
}

// TestFailedAttachKeepsWhatWasAttached: whichever step of a change fails, what was
// in force before it is in force again.
func TestFailedAttachKeepsWhatWasAttached(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	fresh := look(t, newTestRouter(t, never))
	r := newTestRouter(t, never)
	_, err := r.Attach(t.Context(), basic(t), AttachOptions{NoWait: true})
	must(t, err)
	defer func() {
		must(t, r.DetachAll(t.Context()))
		checkSame(t, fresh, look(t, r))
	}()
	before := inForce(t, r)
	for _, step := range StepNames() {
		_, err := newTestRouter(t, failAfter(step)).Attach(t.Context(), another, AttachOptions{NoWait: true})
		if !errors.Is(err, errInjected) || strings.Contains(err.Error(), "undoing it") {
			t.Errorf("after %s: %v", step, err)
		}
		checkSame(t, before, inForce(t, r))
		if t.Failed() {
			t.Fatalf("after a failure of %s", step)
		}
	}
	// The same change without a failure is another state, so the comparison sees.
	_, err = r.Attach(t.Context(), another, AttachOptions{NoWait: true})
	must(t, err)
	after := inForce(t, r)
	visible := []string{"state", "plan", "attachments", "torrc", "excluded", "ruleset", "pins"}
	if guarded, err := loader.CanGuardForward(); err != nil {
		t.Fatal(err)
	} else if !guarded {
		visible = append(visible, "ip rule", "ip -6 rule")
	}
	for _, what := range visible {
		if before[what] == after[what] {
			t.Errorf("%s: the change is not to be seen in %s", what, after[what])
		}
	}
}

// TestInterruptedAttachLeavesNothing: a user who ends attach half-way through
// finds the host as it was, or, once something was attached, that.
func TestInterruptedAttachLeavesNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	edit := basic(t)
	fresh := look(t, newTestRouter(t, never))
	interrupted := func(step string, edit func(*config.Config)) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := newTestRouter(t, func(done string) error {
			if done == step {
				cancel()
			}
			return nil
		})
		if _, err := r.Attach(ctx, edit, AttachOptions{NoWait: true}); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "undoing it") {
			t.Errorf("after %s: %v", step, err)
		}
	}
	steps := []string{"tor", "guards", "programs", "sentry"}
	for _, step := range steps {
		interrupted(step, edit)
		checkSame(t, fresh, look(t, newTestRouter(t, never)))
	}
	r := newTestRouter(t, never)
	_, err := r.Attach(t.Context(), edit, AttachOptions{NoWait: true})
	must(t, err)
	before := inForce(t, r)
	for _, step := range steps {
		interrupted(step, another)
		checkSame(t, before, inForce(t, r))
	}
	must(t, r.DetachAll(t.Context()))
	checkSame(t, fresh, look(t, r))
}

// TestFailedDetachKeepsWhatWasAttached: taking one interface of two off is an
// attach of the other, and undone alike.
func TestFailedDetachKeepsWhatWasAttached(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newTestRouter(t, never)
	edit := basic(t)
	_, err := r.Attach(t.Context(), func(c *config.Config) { edit(c); c.Interfaces = []string{"eth1", "eth2"} }, AttachOptions{NoWait: true})
	must(t, err)
	before := inForce(t, r)
	if _, err := newTestRouter(t, failAfter("programs")).Detach(t.Context(), []string{"eth2"}, false); !errors.Is(err, errInjected) {
		t.Errorf("detach: %v", err)
	}
	checkSame(t, before, inForce(t, r))
	exclude := config.DirectPrefixes(config.KindDestination, netip.MustParsePrefix("151.101.0.0/16"))
	if _, _, err := newTestRouter(t, failAfter("cut")).Exclude(t.Context(), false, exclude, ExcludeOptions{}); !errors.Is(err, errInjected) {
		t.Errorf("exclude: %v", err)
	}
	checkSame(t, before, inForce(t, r))
	remaining, err := r.Detach(t.Context(), []string{"eth2"}, false)
	if err != nil || remaining.String() != "eth1" {
		t.Errorf("detach: %v, %v", remaining, err)
	}
}
