package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Format is the number of the shape of Results.
const Format = 1

// Results are what was run last on each kernel.
type Results struct {
	Format  int      `json:"format"`
	Kernels []Result `json:"kernels"`
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
	Features map[string]Found `json:"features"`
	Suites   []SuiteResult    `json:"suites"`
	Verifier map[string]int   `json:"verifier"` // instructions processed by program; 0: refused
}

// Found is whether a kernel has something, or why not.
type Found struct {
	Has bool   `json:"has"`
	Why string `json:"why,omitempty"`
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
