package kernels

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/KERNELS.md anew")

// root is the repository's.
const root = "../.."

func TestThePageIsWhatTheResultsSay(t *testing.T) {
	if *update {
		if err := WritePage(root); err != nil {
			t.Fatal(err)
		}
	}
	r, err := ReadResults(filepath.Join(root, ResultsFile))
	if err != nil {
		t.Fatal(err)
	}
	want, err := renderPage(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, pageFile))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("run make kernels-doc: %s", diff)
	}
}

// TestResultsAreGood: none has a failure, and a kernel has all that it is new enough for.
func TestResultsAreGood(t *testing.T) {
	r, err := ReadResults(filepath.Join(root, ResultsFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range r.Kernels {
		if !k.OK() {
			t.Errorf("%s has failures", k.Kernel)
		}
		for _, f := range features {
			if f.missed(k) {
				t.Errorf("%s (%s) lacks %q, which is there since Linux %s: %s", k.Kernel, k.Release, f.title, f.since, k.Features[f.probe].Why)
			}
		}
	}
}

// TestWhatVerifiersTookIsTheBudget: a program that has none on a kernel could take what it likes there.
func TestWhatVerifiersTookIsTheBudget(t *testing.T) {
	r, err := ReadResults(filepath.Join(root, ResultsFile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, budgetFile))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]map[string]int)
	if err := json.Unmarshal(text, &known); err != nil {
		t.Fatal(err)
	}
	for _, k := range r.Kernels {
		for name, n := range k.Verifier {
			if n > 0 && known[name][k.Kernel] == 0 {
				t.Errorf("%s has no budget on %s, where it took %d: go run ./testnet/cmd/kernels budget", name, k.Kernel, n)
			}
		}
	}
}

func TestAFeatureIsMissedWhereItShouldBe(t *testing.T) {
	tcx := feature{title: "tcx", probe: "tcx", since: "6.6"}
	for _, c := range []struct {
		kernel, release string
		has, missed     bool
	}{
		{"6.12", "6.12.1-cloud", true, false},
		{"6.12", "6.12.1-cloud", false, true},
		{"6.1", "6.1.0-9-cloud", false, false},
		{"6.12 without BTF", "6.12.1-cloud", false, false},
	} {
		r := Result{Kernel: c.kernel, Release: c.release, Features: map[string]Found{"tcx": {Has: c.has}}}
		if got := tcx.missed(r); got != c.missed {
			t.Errorf("%s, which has it: %t: missed %t", c.kernel, c.has, got)
		}
	}
	if tcx.missed(Result{Kernel: "6.12", Release: "6.12.1-cloud", Features: map[string]Found{"tcx": {Unknown: true}}}) {
		t.Error("what nobody could look at is missed")
	}
}

func TestFeaturesAreLookedAt(t *testing.T) {
	looked := make(map[string]bool)
	for _, f := range features {
		if (f.probe == "") == (f.program == "") || f.without == "" {
			t.Errorf("%q has to name a probe or a program, and what happens without", f.title)
		}
		if f.probe != "" && probes[f.probe] == nil {
			t.Errorf("%q names a probe that is none: %s", f.title, f.probe)
		}
		looked[f.probe] = true
	}
	for name := range probes {
		if !looked[name] {
			t.Errorf("nothing comes of probe %s", name)
		}
	}
}

// TestSuitesNameTestsThatThereAre: one that is renamed would be left out in silence.
func TestSuitesNameTestsThatThereAre(t *testing.T) {
	name := regexp.MustCompile(`\bTest[A-Za-z0-9]+`)
	for _, s := range slices.Concat(suites, foreignSuites) {
		files, err := filepath.Glob(filepath.Join(root, s.Package, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, text...)
		}
		for _, test := range name.FindAllString(s.Run+" "+s.Short, -1) {
			if !bytes.Contains(all, []byte("func "+test+"(")) {
				t.Errorf("%s has no %s", s.Package, test)
			}
		}
	}
}

func TestASkipNeedsAKernelThatLacksSomething(t *testing.T) {
	config := parseConfig("CONFIG_NET=y\nCONFIG_WIREGUARD=m\n# CONFIG_MPTCP is not set\n")
	for _, c := range []struct {
		reason, release string
		btf, fine       bool
	}{
		{"this kernel is older than tcx (Linux 6.6)", "6.1.0-51-cloud-amd64", true, true},
		{"this kernel is older than tcx (Linux 6.6)", "6.12.118+deb13-cloud-amd64", true, false},
		{"this kernel is older than tcx (Linux 6.6)", "6.6.0", true, false},
		{"it takes BTF (Linux 5.10)", "5.10.0", false, true},
		{"it takes BTF (Linux 5.10)", "5.10.0", true, false},
		{"this kernel was built without MPTCP (CONFIG_MPTCP)", "6.1.0", true, true},
		{"this kernel was built without it (CONFIG_WIREGUARD)", "6.1.0", true, false},
		{"no cgroup with a memory controller is mounted", "6.1.0", true, false},
		{"", "6.1.0", true, false},
	} {
		wrong := judgeSkip(Skip{"TestX", c.reason}, c.release, config, c.btf)
		if (wrong == "") != c.fine {
			t.Errorf("%q on %s: %q", c.reason, c.release, wrong)
		}
	}
}

func TestTestsAreRead(t *testing.T) {
	const printed = "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.01s)\n" +
		"\x16=== RUN   TestB\n\x16=== RUN   TestB/part\n    b_test.go:7: this kernel is older than tcx (Linux 6.6)\n\x16--- PASS: TestB (0.00s)\n    \x16--- SKIP: TestB/part (0.00s)\n" +
		"\x16=== RUN   TestC\n    c_test.go:9: wrong\n\x16--- FAIL: TestC (0.00s)\n\x16=== RUN   TestD\n"
	got, err := readTests(t.Context(), root, strings.NewReader(printed))
	if err != nil {
		t.Fatal(err)
	}
	want := &SuiteResult{Passed: 2, Failed: []string{"TestC", "TestD did not end"}, Skipped: []Skip{{"TestB/part", "this kernel is older than tcx (Linux 6.6)"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestResultsAreInOrderAndOncePerKernel(t *testing.T) {
	var r Results
	for _, name := range []string{"6.12", "newest", "5.10 without BTF", "6.1", "5.10", "6.12"} {
		r.Put(Result{Kernel: name, Day: name})
	}
	var got []string
	for _, k := range r.Kernels {
		got = append(got, k.Kernel)
	}
	if diff := cmp.Diff([]string{"newest", "5.10", "5.10 without BTF", "6.1", "6.12"}, got); diff != "" {
		t.Error(diff)
	}
	file := filepath.Join(t.TempDir(), "results.json")
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	back, err := ReadResults(file)
	if err == nil || back != nil {
		t.Errorf("format 0 was read: %v", back)
	}
	r.Format = Format
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	if back, err = ReadResults(file); err != nil || len(back.Kernels) != len(r.Kernels) {
		t.Errorf("read back %v, %v", back, err)
	}
}

func TestHowLongAllTookIsToldOncePerCache(t *testing.T) {
	var r Results
	for _, w := range []Whole{
		{Cache: "full", Seconds: 1}, {Cache: "empty", Seconds: 3 * 60, Busy: 2 * 60, Day: "a day", Kernels: 7, AtOnce: 2, Processors: 2},
		{Cache: "full", Seconds: 61, Day: "a day", Kernels: 7, AtOnce: 2, Processors: 2},
	} {
		w.Add(&Result{Arch: runtime.GOARCH, Run: "KVM"})
		w.Add(&Result{Arch: "another", Run: "emulated", Suites: []SuiteResult{{Failed: make([]string, w.Seconds/61%2)}}})
		r.PutWhole(w)
	}
	const want = `| all of them, from | took | of processors | day | how |
|---|---|---|---|---|
| an empty cache, with all that is downloaded | 3 min 0 s | 2 min 0 s | a day | 7 kernels, KVM, 2 at once on 2 processors |
| a full cache; 1 tests failed | 1 min 1 s | 0 min 0 s | a day | 7 kernels, KVM, 2 at once on 2 processors |

`
	if diff := cmp.Diff(want, wholes(&r)); diff != "" {
		t.Error(diff)
	}
}

func TestFiguresBecomeTheBudget(t *testing.T) {
	known := map[string]map[string]int{"torbpf_lan": {"6.1": 5, "5.10": 6}, "torbpf_gone": {"6.1": 7}, "torbpf_early": {"5.10": 1}}
	takeFigures(known, Result{Kernel: "6.1", Verifier: map[string]int{"torbpf_lan": 9, "torbpf_new": 3, "torbpf_early": 0}})
	want := map[string]map[string]int{"torbpf_lan": {"6.1": 9, "5.10": 6}, "torbpf_new": {"6.1": 3}, "torbpf_early": {"5.10": 1}}
	if diff := cmp.Diff(want, known); diff != "" {
		t.Error(diff)
	}
}

func TestTargetsAreReadAsTheyAreWritten(t *testing.T) {
	seen := make(map[Target]bool)
	for _, target := range Targets {
		if ParseTarget(target.String()) != target {
			t.Errorf("%s", target)
		}
		seen[target] = true
	}
	if len(seen) != len(Targets) || ParseTarget("5.10-nobtf") != (Target{Kernel: "5.10", WithoutBTF: true}) {
		t.Errorf("targets: %v", slices.Collect(maps.Keys(seen)))
	}
}
