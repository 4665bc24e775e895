package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
)

// fake is a Source of a test's.
type fake struct {
	err     error
	tor     router.TorStatus
	fast    router.FastStatus
	own     map[string]loader.Traffic
	devices []router.DeviceStatus
}

func (f fake) Status(context.Context) (*router.Status, error) {
	return &router.Status{Tor: f.tor, Fast: f.fast, OwnTraffic: f.own}, f.err
}
func (f fake) Devices() ([]router.DeviceStatus, error) { return f.devices, nil }

func sent(packets uint64) map[string]loader.Traffic {
	return map[string]loader.Traffic{"tor": {Packets: packets, Bytes: 100 * packets}}
}

// deviceSeries are the packets of each label.
func deviceSeries(t *testing.T, c *Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, f := range families {
		if f.GetName() != "torbpf_device_packets_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "device" {
					out[l.GetValue()] = m.GetCounter().GetValue()
				}
			}
		}
	}
	return out
}

// TestDevicesAreBounded: a device that has a series keeps it, and who comes when there are
// enough is told of together with the others, so that no counter runs backwards.
func TestDevicesAreBounded(t *testing.T) {
	many := func(from, to int) (out []router.DeviceStatus) {
		for i := from; i < to; i++ {
			out = append(out, router.DeviceStatus{MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256), Traffic: sent(uint64(i + 1))})
		}
		return out
	}
	source := &fake{devices: many(0, maxDevices)}
	c := NewCollector(source)
	c.shared = 0
	if got := deviceSeries(t, c); len(got) != maxDevices || got["02:00:00:00:00:05"] != 6 {
		t.Errorf("of %d devices there are %d series: %v", maxDevices, len(got), got)
	}
	late := many(maxDevices, 3*maxDevices)
	source.devices = slices.Concat(late, many(0, maxDevices)) // the one that sent last comes first
	got := deviceSeries(t, c)
	var sum float64
	for i := range late {
		sum += float64(maxDevices + i + 1)
	}
	if len(got) != maxDevices+1 || got["other"] != sum || got["02:00:00:00:00:05"] != 6 {
		t.Errorf("with more devices there are %d series, of others %v packets, want %v", len(got), got["other"], sum)
	}
}

// TestWhatCannotBeReadIsNoZero.
func TestWhatCannotBeReadIsNoZero(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(fake{err: errors.New("no state")}))
	if _, err := registry.Gather(); err == nil || !strings.Contains(err.Error(), "no state") {
		t.Errorf("it gathers with %v", err)
	}
	if n, err := testutil.GatherAndCount(gatherer(NewCollector(fake{err: router.ErrNotAttached}))); n != 1 || err != nil {
		t.Errorf("while nothing is attached there are %d series: %v", n, err)
	}
}

func gatherer(c prometheus.Collector) prometheus.Gatherer {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	return registry
}

// TestEveryMetricIsInTheDocs, and none that does not exist is there or on the dashboard.
func TestEveryMetricIsInTheDocs(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	docs, board := read("../../docs/METRICS.md"), read("../../packaging/grafana/torbpf.json")
	if !json.Valid([]byte(board)) {
		t.Error("the dashboard is no JSON")
	}
	known := map[string]bool{"torbpf_build_info": true}
	for _, d := range all {
		name := named.FindStringSubmatch(d.String())[1]
		known[name] = true
		if !strings.Contains(docs, "`"+name+"`") {
			t.Errorf("docs/METRICS.md does not have %s", name)
		}
	}
	for _, name := range asked.FindAllString(docs+board, -1) {
		if !known[name] {
			t.Errorf("there is no %s", name)
		}
	}
}

// dashboard is what of Grafana's a test looks at.
type dashboard struct {
	Panels []struct {
		ID      int
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr, LegendFormat string }
	}
}

var (
	named   = regexp.MustCompile(`fqName: "([a-z_]+)"`)
	labeled = regexp.MustCompile(`variableLabels: \{([a-z_,]*)\}`)
	asked   = regexp.MustCompile(`torbpf_[a-z_]+`)
	byWhich = regexp.MustCompile(`by \(([a-z_, ]+)\)|([a-z_]+)="|\{\{([a-z_]+)\}\}`)
)

// TestTheDashboardAsksWhatThereIs: each query for labels that its metric has, and together for
// tors, the fast path and this machine's own traffic beside what LANs send.
func TestTheDashboardAsksWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("../../packaging/grafana/torbpf.json")
	if err != nil {
		t.Fatal(err)
	}
	var board dashboard
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	labels := make(map[string]string)
	for _, d := range all {
		labels[named.FindStringSubmatch(d.String())[1]] = labeled.FindStringSubmatch(d.String())[1]
	}
	shown, ids, places := make(map[string]bool), make(map[int]bool), make(map[[2]int]string)
	for _, p := range board.Panels {
		if ids[p.ID] || len(p.Targets) == 0 {
			t.Errorf("the panel %q has the number of another, or asks nothing", p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := places[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("the panel %q lies over %q, or beyond the edge", p.Title, other)
				}
				places[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			name := asked.FindString(target.Expr)
			shown[name] = true
			has := strings.Split(labels[name], ",")
			for _, m := range byWhich.FindAllStringSubmatch(target.Expr+target.LegendFormat, -1) {
				for _, label := range strings.Split(m[1]+m[2]+m[3], ", ") {
					if !slices.Contains(has, label) {
						t.Errorf("%q asks for the label %q, and %s has %v", p.Title, label, name, has)
					}
				}
			}
		}
	}
	for _, d := range []*prometheus.Desc{stopped, problems, ready, packets, bytes, dropped, rules, devices, deviceBytes, torBoot, torReady, torUsers, circuits, traffic, fast, fastSent, ownBytes} {
		if name := named.FindStringSubmatch(d.String())[1]; !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// TestTorsHaveTheirTraffic: each its own, and one that does not answer none, since a counter
// that falls to 0 would look like a tor that was started anew.
func TestTorsHaveTheirTraffic(t *testing.T) {
	source := fake{tor: router.TorStatus{Instances: []router.TorInstance{
		{Alive: true, Circuits: 3, Read: 100, Written: 7}, {Instance: 1},
	}}}
	want := `
# HELP torbpf_tor_circuits Circuits that a tor has built and can use.
# TYPE torbpf_tor_circuits gauge
torbpf_tor_circuits{instance="0"} 3
# HELP torbpf_tor_traffic_bytes_total Bytes that a tor has read from relays, or written to them, since it was started.
# TYPE torbpf_tor_traffic_bytes_total counter
torbpf_tor_traffic_bytes_total{direction="read",instance="0"} 100
torbpf_tor_traffic_bytes_total{direction="written",instance="0"} 7
`
	err := testutil.GatherAndCompare(gatherer(NewCollector(source)), strings.NewReader(want), "torbpf_tor_circuits", "torbpf_tor_traffic_bytes_total")
	if err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(gatherer(NewCollector(source)))
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
}

// TestTheFastPathAndOwnTraffic are told of as status has them; of this machine nothing where it is
// not on Tor.
func TestTheFastPathAndOwnTraffic(t *testing.T) {
	source := fake{
		fast: router.FastStatus{Active: true, Out: 11, In: 12},
		own:  map[string]loader.Traffic{"direct": {Packets: 3, Bytes: 300}, "tor_itself": {Packets: 4, Bytes: 400}},
	}
	want := `
# HELP torbpf_fastpath_active Whether excluded flows may skip the kernel's forwarding now.
# TYPE torbpf_fastpath_active gauge
torbpf_fastpath_active 1
# HELP torbpf_fastpath_packets_total Packets that have gone by the programs of the fast path; a flowtable counts none.
# TYPE torbpf_fastpath_packets_total counter
torbpf_fastpath_packets_total{direction="in"} 12
torbpf_fastpath_packets_total{direction="out"} 11
# HELP torbpf_own_bytes_total Bytes that this machine itself has sent while it is on Tor, by what became of them.
# TYPE torbpf_own_bytes_total counter
torbpf_own_bytes_total{fate="direct"} 300
torbpf_own_bytes_total{fate="tor_itself"} 400
# HELP torbpf_own_packets_total Packets that this machine itself has sent while it is on Tor, by what became of them.
# TYPE torbpf_own_packets_total counter
torbpf_own_packets_total{fate="direct"} 3
torbpf_own_packets_total{fate="tor_itself"} 4
`
	names := []string{"torbpf_fastpath_active", "torbpf_fastpath_packets_total", "torbpf_own_packets_total", "torbpf_own_bytes_total"}
	if err := testutil.GatherAndCompare(gatherer(NewCollector(source)), strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(gatherer(NewCollector(source)), names...); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(gatherer(NewCollector(fake{})), names[2:]...); n != 0 || err != nil {
		t.Errorf("of a machine that is not on Tor there are %d series: %v", n, err)
	}
}

// counted is a Source that waits, and counts who reads it.
type counted struct {
	fake
	reads chan struct{}
}

func (c *counted) Status(ctx context.Context) (*router.Status, error) {
	c.reads <- struct{}{}
	return c.fake.Status(ctx)
}

// TestScrapesShareWhatIsRead: a status opens sockets, and strangers may ask for it.
func TestScrapesShareWhatIsRead(t *testing.T) {
	const scrapes = 32
	source := &counted{reads: make(chan struct{}, 2*scrapes)}
	c := NewCollector(source)
	c.shared = time.Hour
	var done sync.WaitGroup
	for range scrapes {
		done.Go(func() {
			if n := testutil.CollectAndCount(c); n == 0 {
				t.Error("nothing was told")
			}
		})
	}
	done.Wait()
	if n := len(source.reads); n != 1 {
		t.Errorf("%d scrapes have read the status %d times", scrapes, n)
	}
	c.shared = 0
	testutil.CollectAndCount(c)
	if n := len(source.reads); n != 2 {
		t.Errorf("what is too old was told again: %d", n)
	}
}
