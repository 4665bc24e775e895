package report

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// example is a run in which torbpf takes as long as samples say.
func example(samples ...float64) *Result {
	base := make([]float64, len(samples))
	for i := range base {
		base[i] = 100
	}
	return &Result{
		Schema: Schema, Taken: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "v1",
		Machine: Machine{CPU: "some", Cores: 2, Kernel: "6.18", Clock: "cpu"},
		Rows: []Row{
			{Name: "udp-64", Title: "UDP", Unit: NanosecondsPerPacket, Base: "nft", Cells: []Cell{
				{Config: "nft", Title: "nft", Samples: base}, {Config: "torbpf", Title: "torbpf", Samples: samples}}},
			{Name: "attach", Title: "attach", Unit: Milliseconds, Cells: []Cell{
				{Config: "torbpf", Title: "torbpf", Samples: samples}}},
		},
		Programs: []Program{{"torbpf_lan", 1000, 2000}},
		Maps:     []Map{{"counters", 4096}},
	}
}

func TestAResultIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "result.json")
	want := example(90, 95, 105)
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAResultThatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(map[string]any)
	}{
		{"another schema", "its schema is 2", func(m map[string]any) { m["schema"] = 2 }},
		{"no schema", "its schema is 0", func(m map[string]any) { delete(m, "schema") }},
		{"unknown field", "unknown field", func(m map[string]any) { m["colour"] = "red" }},
		{"no rows", "no rows", func(m map[string]any) { m["rows"] = []any{} }},
		{"two of a name", "not the only one", func(m map[string]any) { row(m, 1)["name"] = "udp-64" }},
		{"no cells", "no cells", func(m map[string]any) { row(m, 0)["cells"] = []any{} }},
		{"unknown base", "none of its cells", func(m map[string]any) { row(m, 0)["base"] = "pf" }},
		{"no name of a configuration", "is empty", func(m map[string]any) { cell(m, 0, 1)["config"] = "" }},
		{"two of a configuration", "not the only one", func(m map[string]any) { cell(m, 0, 1)["config"] = "nft" }},
		{"a round missing", "2 samples, the first", func(m map[string]any) { cell(m, 0, 1)["samples"] = []any{1, 2} }},
		{"no time at all", "which nothing takes", func(m map[string]any) { cell(m, 0, 1)["samples"] = []any{1, 2, 0} }},
		{"text for a number", "cannot unmarshal", func(m map[string]any) { cell(m, 0, 1)["samples"] = "many" }},
	} {
		text, err := json.Marshal(example(90, 95, 105))
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		c.change(m)
		if text, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	text, err := json.Marshal(example(90, 95, 105))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(append(text, "{}"...)); err == nil || !strings.Contains(err.Error(), "after top-level value") {
		t.Errorf("two results: %v", err)
	}
	if _, err := Read(text[:len(text)/2]); err == nil {
		t.Error("half a result is read")
	}
}

func row(m map[string]any, i int) map[string]any { return m["rows"].([]any)[i].(map[string]any) }
func cell(m map[string]any, i, j int) map[string]any {
	return row(m, i)["cells"].([]any)[j].(map[string]any)
}

func TestTargetsAreDecidedOnlyBeyondTheSpread(t *testing.T) {
	target := []Target{{"udp-64", "torbpf", "nft", 1.00}}
	for _, c := range []struct {
		samples []float64
		higher  bool
		want    string
	}{
		{[]float64{80, 85, 90, 90, 92, 95}, false, Met},
		{[]float64{80, 85, 90, 95, 100, 101}, false, Undecided},
		{[]float64{101, 105, 110, 110, 115, 120}, false, Missed},
		{[]float64{101, 105, 110, 110, 115, 120}, true, Met},
		{[]float64{99, 105, 110, 110, 115, 120}, true, Undecided},
		{[]float64{80, 85, 90, 90, 92, 95}, true, Missed},
	} {
		r := example(c.samples...)
		r.Rows[0].Higher = c.higher
		judged := r.Judge(target)
		if len(judged) != 1 || judged[0].Verdict != c.want {
			t.Errorf("%v, higher %v: %+v, want %s", c.samples, c.higher, judged, c.want)
		}
	}
	if judged := example(1).Judge([]Target{{"bulk", "torbpf", "nft", 1}, {"udp-64", "xdp", "nft", 1}}); len(judged) > 0 {
		t.Errorf("what was not measured is judged: %+v", judged)
	}
}

func TestComparisonTellsWhatGotSlowerBeyondTheSpread(t *testing.T) {
	before := example(100, 101, 102, 103, 104, 105)
	plus := func(n float64) []float64 { return []float64{100 + n, 101 + n, 102 + n, 103 + n, 104 + n, 105 + n} }
	for _, c := range []struct {
		name           string
		samples        []float64
		higher         bool
		unit           string
		slower, faster string // rows
	}{
		{"the same", plus(0), false, NanosecondsPerPacket, "", ""},
		{"they touch", plus(5), false, NanosecondsPerPacket, "", ""},
		{"they touch, to the better", plus(-5), false, NanosecondsPerPacket, "", ""},
		{"beyond", plus(6), false, NanosecondsPerPacket, "udp-64", ""},
		{"beyond, to the better", plus(-6), false, NanosecondsPerPacket, "", "udp-64"},
		{"beyond, and more is better", plus(6), true, NanosecondsPerPacket, "", "udp-64"},
		{"beyond, to the worse", plus(-6), true, NanosecondsPerPacket, "udp-64", ""},
		{"within what runs differ by", plus(6), false, Microseconds, "", ""},
		{"beyond that", plus(11), false, Microseconds, "udp-64", ""},
		{"within what times of commands differ by", plus(25), false, NanosecondsPerPacket, "udp-64", ""},
		{"beyond that, too", plus(26), false, NanosecondsPerPacket, "udp-64 attach", ""},
		{"far beyond, to the better", plus(-50), false, NanosecondsPerPacket, "", "udp-64 attach"},
	} {
		now := example(c.samples...)
		was := *before
		was.Rows = slices.Clone(before.Rows)
		was.Rows[0].Unit, now.Rows[0].Unit = c.unit, c.unit
		for i := range now.Rows {
			now.Rows[i].Higher = c.higher
		}
		var slower, faster []string
		for _, got := range Compare(&was, now) {
			if got.Slower {
				slower = append(slower, got.Row)
			}
			if got.Faster {
				faster = append(faster, got.Row)
			}
		}
		if s, f := strings.Join(slower, " "), strings.Join(faster, " "); s != c.slower || f != c.faster {
			t.Errorf("%s: slower: %q, want %q; faster: %q, want %q", c.name, s, c.slower, f, c.faster)
		}
	}
}

func TestSmallDifferencesAreNone(t *testing.T) {
	before, now := example(100, 100, 100, 100, 100, 100), example(105, 105, 105, 105, 105, 105)
	if c := Compare(before, now)[0]; c.Slower {
		t.Errorf("slower by what two runs of the same differ by: %+v", c)
	}
}

func TestAnotherMachineIsComparedBySharesAlone(t *testing.T) {
	before, now := example(100, 100), example(100, 100)
	now.Machine.CPU = "another"
	changes := Compare(before, now)
	if len(changes) != 1 || changes[0].Row != "udp-64" || changes[0].Against != "nft" {
		t.Errorf("compared: %+v", changes)
	}
	now.Rows[0].Unit = GigabitsPerSecond
	if changes := Compare(before, now); len(changes) != 0 {
		t.Errorf("rows of two units are compared: %+v", changes)
	}
}
