package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Format is the number of the shape of Results.
const Format = 1

// Results are what was run last on each kernel.
type Results struct {
	Format  int      `json:"format"`
	Kernels []Result `json:"kernels"`
	Wholes  []Whole  `json:"wholes,omitempty"`
}

// Whole is how long all of `make test-vm` took, once from an empty cache and once from a full one.
type Whole struct {
	Cache      string `json:"cache"` // "empty" or "full"
	Day        string `json:"day"`
	Run        string `json:"run"` // "KVM" or "emulated"
	Kernels    int    `json:"kernels"`
	AtOnce     int    `json:"at_once"`
	Processors int    `json:"processors"`
	Seconds    int    `json:"seconds"`
	Busy       int    `json:"busy"`   // seconds of a processor, those of all added up
	Failed     int    `json:"failed"` // tests
}

// Add takes over what came of a kernel.
func (w *Whole) Add(r *Result) {
	_, _, failed := r.totals()
	w.Failed += failed
	if r.Arch == runtime.GOARCH { // any other is emulated anyway
		w.Run = r.Run
	}
}

// Result is what came of one kernel.
type Result struct {
	Kernel   string           `json:"kernel"`            // as in Target.String
	Package  string           `json:"package,omitempty"` // Debian's
	Version  string           `json:"version,omitempty"` // the package's
	Release  string           `json:"release"`
	Arch     string           `json:"arch"`
	Day      string           `json:"day"`
	Run      string           `json:"run"` // "KVM" or "emulated"
	Seconds  int              `json:"seconds"`
	Short    bool             `json:"short,omitempty"` // of each suite the shortest alone
	Features map[string]Found `json:"features"`
	Suites   []SuiteResult    `json:"suites"`
	Verifier map[string]int   `json:"verifier"` // instructions processed by program; 0: refused
}

// Found is whether a kernel has something, or why not.
type Found struct {
	Has     bool   `json:"has"`
	Why     string `json:"why,omitempty"`
	Unknown bool   `json:"unknown,omitempty"` // the machine had no program to look with
}

// SuiteResult is what came of a suite. Tests within tests are not counted.
type SuiteResult struct {
	Name    string   `json:"name"`
	Passed  int      `json:"passed"`
	Failed  []string `json:"failed,omitempty"`
	Skipped []Skip   `json:"skipped,omitempty"`
	Seconds int      `json:"seconds"`
}

// Skip is a test, or one within it, that was left out.
type Skip struct {
	Test   string `json:"test"`
	Reason string `json:"reason"`
}

// OK tells whether nothing has failed.
func (r *Result) OK() bool {
	return !slices.ContainsFunc(r.Suites, func(s SuiteResult) bool { return len(s.Failed) > 0 })
}

// ReadResults reads a file of results; one that is not there has none.
func ReadResults(path string) (*Results, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return &Results{Format: Format}, nil
	}
	if err != nil {
		return nil, err
	}
	var r Results
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("%s has format %d, this knows %d: run the matrix anew", path, r.Format, Format)
	}
	return &r, nil
}

// Put takes over a result in place of the one of the same kernel.
func (r *Results) Put(one Result) {
	r.Kernels = slices.DeleteFunc(r.Kernels, func(k Result) bool { return k.Kernel == one.Kernel })
	r.Kernels = append(r.Kernels, one)
	slices.SortFunc(r.Kernels, func(a, b Result) int { return compareKernels(a.Kernel, b.Kernel) })
}

// PutWhole takes over how long all of it took, in place of the time before with such a cache.
func (r *Results) PutWhole(one Whole) {
	r.Wholes = slices.DeleteFunc(r.Wholes, func(w Whole) bool { return w.Cache == one.Cache })
	r.Wholes = append(r.Wholes, one)
	slices.SortFunc(r.Wholes, func(a, b Whole) int { return strings.Compare(a.Cache, b.Cache) })
}

// Write writes the file.
func (r *Results) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// compareKernels orders by version, and then by what is said about it.
func compareKernels(a, b string) int {
	va, ra, _ := strings.Cut(a, " ")
	vb, rb, _ := strings.Cut(b, " ")
	if c := compareVersions(va, vb); c != 0 {
		return c
	}
	return strings.Compare(ra, rb)
}

// compareVersions orders versions such as 5.10.
func compareVersions(a, b string) int { return version(a) - version(b) }

// version is a number by which versions compare; 0 of what is none.
func version(text string) int {
	var major, minor int
	if _, err := fmt.Sscanf(text, "%d.%d", &major, &minor); err != nil {
		return 0
	}
	return major<<16 | minor
}
