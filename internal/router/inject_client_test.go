package router

import (
	"errors"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// withProxy is client mode with a proxy past Tor, and no LAN.
func withProxy(t *testing.T) func(*config.Config) {
	t.Helper()
	edit := basic(t)
	return func(c *config.Config) {
		edit(c)
		c.Interfaces = nil
		c.Client = config.Client{Enable: true, ProxyPort: config.DefaultProxyPort}
	}
}

// TestFailedChangeKeepsTheProxy: whichever step of a change fails, the proxy of before serves
// again, and no other is left.
func TestFailedChangeKeepsTheProxy(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	fresh := look(t, newTestRouter(t, never))
	r := newTestRouter(t, never)
	_, err := r.Attach(t.Context(), withProxy(t), AttachOptions{NoWait: true})
	must(t, err)
	before := inForce(t, r)
	for name, change := range map[string]func(*config.Config){
		"another port":   func(c *config.Config) { c.Client.ProxyPort++ },
		"no proxy":       func(c *config.Config) { c.Client.ProxyPort = 0 },
		"no client mode": func(c *config.Config) { c.Client.Enable, c.Interfaces = false, []string{"eth1"} },
	} {
		for _, step := range []string{stepNFT, stepSentry, stepProxy, stepState} {
			_, err := newTestRouter(t, failAfter(step)).Attach(t.Context(), change, AttachOptions{NoWait: true})
			if !errors.Is(err, errInjected) || strings.Contains(err.Error(), "undoing it") {
				t.Errorf("%s, after %s: %v", name, step, err)
			}
			checkSame(t, before, inForce(t, r))
			if t.Failed() {
				t.Fatalf("%s, after a failure of %s", name, step)
			}
		}
	}
	must(t, r.DetachAll(t.Context()))
	checkSame(t, fresh, look(t, r))
}

// TestFailedBootLeavesNoProxy: an attach that fails goes back to the block, which has none.
func TestFailedBootLeavesNoProxy(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	cfg := config.Default()
	withProxy(t)(&cfg)
	always := func([]string) bool { return true }
	for _, step := range []string{stepProxy, stepTor} {
		r := newTestRouter(t, failAfter(step))
		must(t, r.Enforce(t.Context(), cfg))
		if _, err := r.Mend(t.Context(), true, always); !errors.Is(err, errInjected) {
			t.Errorf("after %s: %v", step, err)
		}
		if s, err := r.loadState(); err != nil || !s.Blocked || s.Proxy != nil || strings.Contains(processes(t), "torbpf-") {
			t.Errorf("after a failure of %s: %+v, %v, processes %s", step, s, err, processes(t))
		}
	}
	r := newTestRouter(t, never)
	_, err := r.Mend(t.Context(), true, always)
	must(t, err)
	inForce(t, r)
}
