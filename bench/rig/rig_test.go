package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/testnet"
)

// TestEveryRowIsMeasured runs the whole of it in small: what each configuration lets
// through, with which source address, and what it refuses is checked by the rows themselves.
func TestEveryRowIsMeasured(t *testing.T) {
	const frames, flows, rounds = 500, 3000, 2
	paths, d := allPaths(t)
	if err := d.Calibrate(paths[0]); err != nil {
		t.Fatal(err)
	}
	packets, err := PacketRows(frames, flows)
	if err != nil {
		t.Fatal(err)
	}
	for _, rows := range [][]Row{packets, {BulkRow(1 << 20)}, {ConnectRow(5)}} {
		measured, err := d.Measure(t.Context(), paths, rows, rounds, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range measured {
			checkCells(t, r, having(paths, rows[i].Configs), rounds)
		}
	}
	checkClocks(t, d, paths[0])
	for _, p := range paths {
		checkFlows(t, p, flows)
		if p.Config.Name == Torbpf {
			checkObjects(t, p)
		}
	}
}

// checkObjects wants what the kernel tells of the programs and maps in force.
func checkObjects(t *testing.T, p *Path) {
	t.Helper()
	programs, err := p.Programs()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(programs, func(o report.Program) bool { return o.Name == "torbpf_lan" })
	if i < 0 || programs[i].Instructions == 0 || programs[i].JITed == 0 {
		t.Errorf("of the LAN program nothing is told: %+v", programs)
	}
	maps, err := p.Maps()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(maps, func(m report.Map) bool { return m.Name == "counters" && m.Bytes > 0 }) {
		t.Errorf("of the counters nothing is told: %+v", maps)
	}
}

// TestCommandsAreTimed has torbpf come, change and go once.
func TestCommandsAreTimed(t *testing.T) {
	lab := testnet.New(t, testnet.Options{Bare: true})
	rows, err := Times(t.Context(), lab, buildProgram(t), 1, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
		checkCells(t, r, []string{Torbpf}, 1)
	}
	if got, want := strings.Join(names, " "), "attach refresh apply reload detach"; got != want {
		t.Errorf("timed: %s, want %s", got, want)
	}
}

// checkClocks wants either clock to tell a time, since a machine uses one only.
func checkClocks(t *testing.T, d *Driver, p *Path) {
	t.Helper()
	stop, err := p.Receive()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	g, err := NewGenerator(udp(Direct, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, d.Clock = range []string{ClockCPU, ClockReal} {
		burst, err := d.Send(p, g, 1000)
		if err != nil || burst.Took <= 0 || burst.Sent != 1000 {
			t.Errorf("clock %q: %+v, %v", d.Clock, burst, err)
		}
		took, err := d.time(p.Device, func() error { _, err := g.send(p.deviceIndex, 1000); return err })
		if err != nil || took <= 0 {
			t.Errorf("clock %q: %v, %v", d.Clock, took, err)
		}
	}
}

func buildProgram(t *testing.T) string {
	t.Helper()
	dir, err := testnet.ProgramDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "torbpf")
	if err := testnet.BuildProgram(program); err != nil {
		t.Fatal(err)
	}
	return program
}

func allPaths(t *testing.T) ([]*Path, *Driver) {
	t.Helper()
	lab := testnet.New(t, testnet.Options{Bare: true})
	var paths []*Path
	for _, c := range Configs(buildProgram(t)) {
		p, err := NewPath(t.Context(), lab, c)
		if c.Name == Flowtable && errors.Is(err, kernel.ErrMissing) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	d, err := NewDriver()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return paths, d
}

// having leaves the configurations of which there are paths.
func having(paths []*Path, configs []string) []string {
	return slices.DeleteFunc(slices.Clone(configs), func(name string) bool { return pathOf(paths, name) == nil })
}

func checkCells(t *testing.T, r report.Row, configs []string, samples int) {
	t.Helper()
	if len(r.Cells) != len(configs) {
		t.Errorf("row %q has %d cells, want those of %v", r.Name, len(r.Cells), configs)
	}
	for _, c := range r.Cells {
		if len(c.Samples) != samples {
			t.Errorf("row %q, %q: %d samples, want %d", r.Name, c.Config, len(c.Samples), samples)
		}
	}
}

// checkFlows wants as many flows in conntrack as the generator is to make, where there is
// any: so each has ports or addresses of its own, what it sends is well-formed, and answers
// are of the same flows.
func checkFlows(t *testing.T, p *Path, flows int) {
	t.Helper()
	if !p.Config.NAT || !slices.Contains(everywhere, p.Config.Name) {
		return
	}
	var text []byte
	err := p.Router.Do(func() (err error) {
		text, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		return err
	})
	count, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, parseErr); err != nil {
		t.Fatal(err)
	}
	if count < flows || count > flows*3/2 {
		t.Errorf("%q: %d flows in conntrack, want %d and those of the smaller rows", p.Config.Name, count, flows)
	}
}

func TestBurstsAreChecked(t *testing.T) {
	for _, c := range []struct {
		refused bool
		burst   Burst
		want    string // in the error; none: it is right
	}{
		{false, Burst{Sent: 1000, Right: 1000}, ""},
		{false, Burst{Sent: 1000, Right: 990}, ""},
		{false, Burst{Sent: 1000, Right: 989}, "only 989 of 1000"},
		{false, Burst{Sent: 1000, Right: 999, Wrong: 1}, "wrong source"},
		{true, Burst{Sent: 1000}, ""},
		{true, Burst{Sent: 1000, Right: 1}, "to be refused"},
		{true, Burst{Sent: 1000, Wrong: 1}, "to be refused"},
	} {
		got := fmt.Sprint((&bursts{refused: c.refused}).check(c.burst))
		if c.want == "" && got != "<nil>" || !strings.Contains(got, c.want) {
			t.Errorf("%+v, refused %v: %q, want %q", c.burst, c.refused, got, c.want)
		}
	}
}

func TestGeneratorRefusesFlowsThatItCannotNumber(t *testing.T) {
	for _, flows := range []uint32{0, maxFlows + 1} {
		if g, err := NewGenerator(Traffic{Protocol: 17, To: Direct, Flows: flows}); err == nil {
			t.Errorf("%d flows: %v", flows, g.Close())
		}
	}
}
