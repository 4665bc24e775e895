package top

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
)

// fakeSource is a household without a kernel.
type fakeSource struct {
	mu     sync.Mutex
	reads  int
	fails  error             // of reading devices, but for the first time
	panics string            // likewise
	deaf   error             // of events
	events chan router.Event // that happen
	status func()            // is called for a status
	rules  config.Rules      // that were made
	backs  []string          // who was put back on Tor
	o      router.ExcludeOptions
}

func newFakeSource() *fakeSource {
	return &fakeSource{events: make(chan router.Event), status: func() {}}
}

func (s *fakeSource) Devices() ([]router.DeviceStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.reads > 1 && s.panics != "" {
		panic(s.panics)
	}
	if s.reads > 1 {
		return devicesAt(true), s.fails
	}
	return devicesAt(false), nil
}

func (s *fakeSource) RefusedByReason() (map[string]loader.Traffic, error) {
	return refusedAt(true), nil
}

func (s *fakeSource) Status(context.Context) (*router.Status, error) {
	s.status()
	return fixtureStatus(), nil
}

func (s *fakeSource) Events(ctx context.Context, _ router.EventFilter, told func(router.Event)) error {
	if s.deaf != nil {
		return s.deaf
	}
	for {
		select {
		case e := <-s.events:
			told(e)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *fakeSource) WhoIs(who []string) ([]config.Entry, error) {
	var out []config.Entry
	for _, w := range who {
		e, err := config.Config{}.WhoIs(w, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func (s *fakeSource) Exclude(_ context.Context, _ bool, rules config.Rules, o router.ExcludeOptions) ([]config.Change, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.o = append(s.rules, rules...), o
	return []config.Change{{Rule: rules[0], Outcome: config.Added}}, []string{"mind the gap"}, nil
}

func (s *fakeSource) BackToTor(_ context.Context, who []string, _ router.ExcludeOptions) ([]config.Change, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backs = append(s.backs, who...)
	return nil, nil, errors.New("another command is at work")
}

// fakeScreen is a terminal that tells whether it was restored.
type fakeScreen struct {
	tcell.SimulationScreen
	mu       sync.Mutex
	restored bool
}

func (s *fakeScreen) Fini() {
	s.mu.Lock()
	s.restored = true
	s.mu.Unlock()
	s.SimulationScreen.Fini()
}

// showing runs a screen until it ends.
type showing struct {
	screen *fakeScreen
	source *fakeSource
	cancel context.CancelFunc
	ended  chan error
	panics chan any
}

func startShowing(t *testing.T, s *fakeSource) *showing {
	t.Helper()
	screen := &fakeScreen{SimulationScreen: tcell.NewSimulationScreen("UTF-8")}
	if err := screen.Init(); err != nil {
		t.Fatal(err)
	}
	screen.SetSize(80, 24)
	ctx, cancel := context.WithCancel(t.Context())
	v := &showing{screen, s, cancel, make(chan error, 1), make(chan any, 1)}
	m := newModel(Options{Interval: 10 * time.Millisecond, Sort: ByName})
	first, err := read(s)
	if err != nil {
		t.Fatal(err)
	}
	m.setReading(first)
	go func() {
		defer func() { v.panics <- recover() }()
		v.ended <- show(ctx, screen, s, m, nil)
	}()
	t.Cleanup(func() {
		cancel()
		<-v.panics
	})
	return v
}

// shown is what the screen shows now.
func (v *showing) shown() string {
	cells, columns, _ := v.screen.GetContents()
	var b strings.Builder
	for i, c := range cells {
		if i > 0 && i%columns == 0 {
			b.WriteString("\n")
		}
		b.WriteString(string(c.Runes))
	}
	return b.String()
}

// await waits until it shows something.
func (v *showing) await(t *testing.T, what string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(v.shown(), what) {
		select {
		case <-deadline:
			t.Fatalf("it does not show %q but\n%s", what, v.shown())
		case <-tick.C:
		}
	}
}

func (v *showing) press(keys string) {
	for _, k := range keys {
		v.screen.InjectKey(tcell.KeyRune, k, tcell.ModNone)
	}
}

// checkRestored wants the terminal back, and the end.
func (v *showing) checkRestored(t *testing.T, want error) {
	t.Helper()
	if err := <-v.ended; !errors.Is(err, want) {
		t.Errorf("it ended with %v, want %v", err, want)
	}
	v.screen.mu.Lock()
	defer v.screen.mu.Unlock()
	if !v.screen.restored {
		t.Error("the terminal was not restored")
	}
}

// TestTheScreen shows what is read, what happens, and what is typed, and changes what was asked for.
func TestTheScreen(t *testing.T) {
	inUTC(t)
	s := newFakeSource()
	v := startShowing(t, s)
	v.await(t, "Tor 0.4.9.3 ready")
	s.events <- refusedEvent(0, "phone", "142.250.74.110:443", "quic", 17)
	v.await(t, "phone > 142.250.74.110:443")
	v.screen.InjectKey(tcell.KeyDown, 0, tcell.ModNone)
	v.screen.InjectKey(tcell.KeyDown, 0, tcell.ModNone)
	v.press("a")
	v.await(t, "let kitchen-tv go direct, past Tor, for 10m? y/n")
	v.press("y")
	v.await(t, "added device 02:00:5e:10:00:01; warning: mind the gap")
	s.mu.Lock()
	if len(s.rules) != 1 || s.rules[0].Policy != config.PolicyDirect || s.o.Life != 10*time.Minute || s.o.By != "top" {
		t.Errorf("made were %+v with %+v", s.rules, s.o)
	}
	s.mu.Unlock()
	v.press("b")
	v.await(t, "block kitchen-tv")
	v.press("y")
	v.await(t, "added device")
	v.press("t")
	v.await(t, "put kitchen-tv back on Tor? y/n")
	v.press("y")
	v.await(t, "not changed: another command is at work")
	s.mu.Lock()
	if len(s.rules) != 2 || s.rules[1].Policy != config.PolicyBlock || s.o.Life != 0 || len(s.backs) != 1 {
		t.Errorf("made were %+v with %+v; back are %v", s.rules, s.o, s.backs)
	}
	s.mu.Unlock()
	v.screen.SetSize(40, 12)
	v.await(t, "+kitc~n-tv")
	v.press("q")
	v.checkRestored(t, nil)
}

// TestTheTerminalIsRestored whatever ends the screen.
func TestTheTerminalIsRestored(t *testing.T) {
	t.Run("told to stop", func(t *testing.T) {
		v := startShowing(t, newFakeSource())
		v.cancel()
		v.checkRestored(t, nil)
	})
	t.Run("^C", func(t *testing.T) {
		v := startShowing(t, newFakeSource())
		v.screen.InjectKey(tcell.KeyCtrlC, 3, tcell.ModCtrl)
		v.checkRestored(t, nil)
	})
	t.Run("detached", func(t *testing.T) {
		s := newFakeSource()
		s.fails = router.ErrNotAttached
		startShowing(t, s).checkRestored(t, router.ErrNotAttached)
	})
	for where, set := range map[string]func(*fakeSource){
		"a panic":           func(s *fakeSource) { s.panics = "the sky falls" },
		"a panic beside it": func(s *fakeSource) { s.status = func() { panic("the sky falls") } },
	} {
		t.Run(where, func(t *testing.T) {
			s := newFakeSource()
			set(s)
			v := startShowing(t, s)
			p := <-v.panics
			if !strings.Contains(fmt.Sprint(p), "the sky falls") || !v.screen.restored {
				t.Errorf("it panics with %v, restored: %v", p, v.screen.restored)
			}
			v.panics <- nil
		})
	}
}

// TestWithoutRefusals it goes on, and says why there are none.
func TestWithoutRefusals(t *testing.T) {
	s := newFakeSource()
	s.deaf = errors.New("somebody else watches already")
	startShowing(t, s).await(t, "refusals are counted, but not shown: somebody else watches already")
}

// TestLines: for who has no screen there is text, or an object a line, once or again and again.
func TestLines(t *testing.T) {
	inUTC(t)
	o := Options{Interval: 10 * time.Millisecond, Sort: ByName}
	var once bytes.Buffer
	if err := Print(t.Context(), newFakeSource(), o, &once, true, false); err != nil {
		t.Fatal(err)
	}
	if text := once.String(); strings.Count(text, "kitchen-tv") != 1 || strings.ContainsAny(text, "\x1b\r") || !strings.HasSuffix(text, "\n") {
		t.Errorf("once: %s", text)
	}
	o.Columns = 200
	var wide bytes.Buffer
	if err := Print(t.Context(), newFakeSource(), o, &wide, true, false); err != nil || !strings.Contains(wide.String(), "ADDRESSES") {
		t.Errorf("in 200 columns: %v, %s", err, wide.String())
	}
	for line := range strings.Lines(once.String()) {
		if n := width(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	var object bytes.Buffer
	if err := Print(t.Context(), newFakeSource(), o, &object, true, true); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Schema  int
		Seconds float64
		Traffic map[string]loader.Traffic
		Devices []struct {
			Name, MAC string
			Rates     map[string]Rate
		}
		Refused map[string]struct{ Packets uint64 }
	}
	if err := json.Unmarshal(object.Bytes(), &got); err != nil || strings.Count(object.String(), "\n") != 1 {
		t.Fatalf("%v: %s", err, object.String())
	}
	if got.Schema != 1 || got.Seconds <= 0 || len(got.Devices) != len(household) || got.Refused["quic"].Packets != 90_047 || got.Traffic["tor"] != sumOf(fixture().all()).Sum[0] {
		t.Errorf("it is %+v", got)
	}
	if d := got.Devices[1]; d.Name != "kitchen-tv" || d.Rates["direct"].Packets == 0 {
		t.Errorf("the first is %+v", d)
	}

	ctx, cancel := context.WithCancel(t.Context())
	again := &stopsAfter{frames: 3, cancel: cancel}
	if err := Print(ctx, newFakeSource(), o, again, false, false); err != nil || strings.Count(again.text.String(), "\n\ntorbpf top") != 2 {
		t.Errorf("again and again: %v, %s", err, again.text.String())
	}
	s := newFakeSource()
	s.fails = router.ErrNotAttached
	if err := Print(t.Context(), s, o, &once, false, false); !errors.Is(err, router.ErrNotAttached) {
		t.Errorf("behind detach: %v", err)
	}
}

// stopsAfter cancels after some writes.
type stopsAfter struct {
	text   bytes.Buffer
	frames int
	cancel context.CancelFunc
}

func (w *stopsAfter) Write(p []byte) (int, error) {
	if w.frames--; w.frames == 0 {
		w.cancel()
	}
	return w.text.Write(p)
}
