package kernels

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/torbpf/torbpf/testnet/vm"
)

// folderKernel is a kernel of nothing but its configuration.
func folderKernel(t *testing.T, config string) *vm.Kernel {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"boot/config-6.12.1-cloud": config, "lib/modules/6.12.1-cloud/kernel/none": ""} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cache, err := vm.OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := cache.Kernel(t.Context(), dir, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

// leave is what a machine leaves in /out, as an archive.
func leave(t *testing.T, files map[string]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestWhatAMachineReportsIsJudged: what fails, what is left out without need, what ends early
// and what does not run at all is a failure.
func TestWhatAMachineReportsIsJudged(t *testing.T) {
	m := &Matrix{Root: root, Log: io.Discard, Kept: t.TempDir()}
	chosen := []Suite{{Name: "good"}, {Name: "skips"}, {Name: "dies"}, {Name: "nothing"}}
	got, err := m.gather(Target{Kernel: "6.12"}, chosen)
	if err != nil {
		t.Fatal(err)
	}
	printed := []string{
		"", "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.01s)\n\x16PASS\n",
		"\x16=== RUN   TestB\n    b_test.go:7: this kernel is older than tcx (Linux 6.6)\n\x16--- SKIP: TestB (0.00s)\n\x16PASS\n",
		"\x16=== RUN   TestC\npanic: no\n", "\x16PASS\n",
	}
	for i, text := range printed {
		got.take(vm.Event{Job: i, Output: []byte(text)})
		got.take(vm.Event{Job: i, Ended: true, Code: map[int]int{3: 2}[i], Uptime: time.Duration(1+2*i) * time.Second})
	}
	r := &Result{Release: "6.12.1-cloud"}
	if err := r.takeFiles(leave(t, map[string]string{"verifier.json": `{"torbpf_lan": 7}`})); err == nil {
		t.Error("a machine that has left nothing about its kernel is no error")
	}
	if err := r.takeFiles(leave(t, map[string]string{"features.json": `{"btf": {"has": true}}`, "verifier.json": `{"torbpf_lan": 7}`, "other": "x"})); err != nil {
		t.Fatal(err)
	}
	if err := m.judge(t.Context(), r, folderKernel(t, "CONFIG_BPF=y\n"), chosen, got); err != nil {
		t.Fatal(err)
	}
	skip := Skip{"TestB", "this kernel is older than tcx (Linux 6.6)"}
	want := []SuiteResult{
		{Name: "good", Passed: 1, Seconds: 2},
		{Name: "skips", Skipped: []Skip{skip}, Failed: []string{judgeSkip(skip, r.Release, nil, true)}, Seconds: 2},
		{Name: "dies", Failed: []string{"TestC did not end"}, Seconds: 2},
		{Name: "nothing", Failed: []string{"no test was run"}, Seconds: 2},
	}
	if diff := cmp.Diff(want, r.Suites); diff != "" {
		t.Error(diff)
	}
	if r.OK() || r.Verifier["torbpf_lan"] != 7 || !strings.Contains(r.String(), "FAILED: TestC did not end") {
		t.Errorf("the result is %v", r)
	}
	kept, err := os.ReadFile(filepath.Join(m.Kept, "6.12-1.log"))
	if err != nil || string(kept) != printed[1] {
		t.Errorf("kept %q, %v", kept, err)
	}
}
