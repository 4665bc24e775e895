package kernels

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/torbpf/torbpf/testnet/vm"
)

// Matrix runs suites on kernels.
type Matrix struct {
	Cache *vm.Cache
	Root  string    // of the repository
	Log   io.Writer // is told what happens
	Short bool      // only the shortest of each suite
	Only  string    // only suites whose name or package contains this
	Kept  string    // a folder into which all that machines print is written; "": none

	making sync.Mutex // of what machines are made of
	built  string     // a folder with the test programs
}

// build builds all that machines of an architecture run, unless it is there. Close removes it.
func (m *Matrix) build(ctx context.Context, arch string) (dir string, err error) {
	if m.built == "" {
		if m.built, err = os.MkdirTemp("", "torbpf-kernels-"); err != nil {
			return "", err
		}
	}
	dir = filepath.Join(m.built, arch)
	for _, c := range [][]string{{"build", "-o", dir + "/torbpf", "./cmd/torbpf"}, {"build", "-o", dir + "/kernels", "./testnet/cmd/kernels"}} {
		if err := m.goTool(ctx, arch, c...); err != nil {
			return "", err
		}
	}
	for _, s := range m.suites(arch, true) {
		if err := m.goTool(ctx, arch, "test", "-c", "-o", filepath.Join(dir, s.program()), "./"+s.Package); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Close removes what was built.
func (m *Matrix) Close() error { return os.RemoveAll(m.built) }

// program is what the suite's package is built to.
func (s Suite) program() string { return strings.ReplaceAll(s.Package, "/", "-") + ".test" }

func (m *Matrix) goTool(ctx context.Context, arch string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = m.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// suites are those that are to be run on an architecture, with those that take real tor or without:
// of another architecture there are no programs here.
func (m *Matrix) suites(arch string, tor bool) []Suite {
	all := slices.Clone(suites)
	if arch != runtime.GOARCH {
		all = slices.Clone(foreignSuites)
	}
	return slices.DeleteFunc(all, func(s Suite) bool {
		return m.Short && s.Short == "" || s.Tor && !tor || !strings.Contains(s.Name+" "+s.Package, m.Only)
	})
}

// Run runs all suites on a kernel, with those that take real tor or without. An error is one of the
// machine; tests that failed are in the result. Several kernels may be run at once.
func (m *Matrix) Run(ctx context.Context, t Target, tor bool) (*Result, error) {
	kernel, fast, built, err := m.make(ctx, t)
	if err != nil {
		return nil, err
	}
	chosen := m.suites(kernel.Arch, tor)
	begun := time.Now()
	got, err := m.gather(t, chosen)
	if err != nil {
		return nil, err
	}
	err = m.machine(kernel, t, built, chosen).Run(ctx, got.take)
	if err := errors.Join(err, got.err); err != nil {
		return nil, err
	}
	r := &Result{
		Kernel: called(t, kernel), Package: kernel.Package, Version: kernel.Version, Release: kernel.Release, Arch: kernel.Arch,
		Day: begun.UTC().Format(time.DateOnly), Run: "emulated", Seconds: int(time.Since(begun).Seconds()), Short: m.Short,
	}
	if fast {
		r.Run = "KVM"
	}
	if err := r.takeFiles(&got.files); err != nil {
		return nil, fmt.Errorf("%w: %s", err, got.out[0].Bytes())
	}
	return r, m.judge(ctx, r, kernel, chosen, got)
}

// make makes what a machine takes, unless it is there.
func (m *Matrix) make(ctx context.Context, t Target) (kernel *vm.Kernel, fast bool, built string, err error) {
	m.making.Lock()
	defer m.making.Unlock()
	if kernel, err = m.Cache.Kernel(ctx, t.Kernel, t.arch()); err != nil {
		return nil, false, "", err
	}
	if fast, err = kernel.Accelerated(ctx); err != nil {
		return nil, false, "", err
	}
	built, err = m.build(ctx, t.arch())
	return kernel, fast, built, err
}

// called is the name of the result: that of the newest kernel is its version.
func called(t Target, k *vm.Kernel) string {
	_, drivers := strings.CutSuffix(t.Kernel, vm.WithDrivers)
	t.Kernel = regexp.MustCompile(`^\d+\.\d+`).FindString(k.Release)
	if drivers {
		t.Kernel += vm.WithDrivers // whose result is none of that for clouds
	}
	return t.String()
}

// machine is one with all that the suites take; its first job looks at the kernel.
func (m *Matrix) machine(k *vm.Kernel, t Target, built string, chosen []Suite) *vm.Machine {
	machine := &vm.Machine{Kernel: k, CPUs: 2, MemoryMB: 3072}
	if k.Arch == runtime.GOARCH {
		machine.Programs = programs
	}
	if t.WithoutBTF {
		machine.Hide = []string{"/sys/kernel/btf"}
	}
	for _, f := range files {
		machine.Files = append(machine.Files, vm.File{Host: f, Guest: f})
	}
	machine.Files = append(machine.Files, vm.File{Host: built, Guest: "/torbpf"}, vm.File{Host: filepath.Join(m.Root, "docs"), Guest: "/torbpf/src/docs"})
	machine.Jobs = []vm.Job{{Args: []string{"/torbpf/kernels", "probe", "/out/features.json"}, Timeout: time.Minute}}
	for _, s := range chosen {
		dir := path.Join("/torbpf/src", s.Package)
		machine.Jobs = append(machine.Jobs, vm.Job{
			Args: s.arguments(path.Join("/torbpf", s.program()), m.Short), Dir: dir, Timeout: s.Timeout + time.Minute,
			Env: []string{"TORBPF_TEST_PROGRAM=/torbpf/torbpf", "TORBPF_TEST_SLOW=" + slower, "TORBPF_TEST_OUT=/out"},
		})
		if data := filepath.Join(m.Root, s.Package, "testdata"); exists(data) {
			machine.Files = append(machine.Files, vm.File{Host: data, Guest: path.Join(dir, "testdata")})
		}
	}
	return machine
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (s Suite) arguments(program string, short bool) []string {
	run := s.Run
	if short {
		run = s.Short
	}
	return []string{program, "-test.v=test2json", "-test.timeout=" + s.Timeout.String(), "-test.run=" + run}
}

// gathered is what a machine has reported. Its job 0 is the look at the kernel.
type gathered struct {
	out    []bytes.Buffer
	ended  []vm.Event
	files  bytes.Buffer
	suites []Suite
	target Target
	log    io.Writer
	kept   string // how the files are called that get what jobs print; "": none
	err    error  // of these
}

func (g *gathered) take(e vm.Event) {
	if e.Booted != "" {
		fmt.Fprintf(g.log, "  %s: %s has booted in %.1f s\n", g.target, e.Booted, e.Uptime.Seconds())
	}
	g.out[e.Job].Write(e.Output)
	g.files.Write(e.Files)
	if g.kept != "" && len(e.Output) > 0 {
		g.err = errors.Join(g.err, appendTo(fmt.Sprintf("%s-%d.log", g.kept, e.Job), e.Output))
	}
	if e.Ended {
		g.ended[e.Job] = e
		if e.Job > 0 {
			fmt.Fprintf(g.log, "  %s: at %4.0f s ended with %d: %s\n", g.target, e.Uptime.Seconds(), e.Code, g.suites[e.Job-1].Name)
		}
	}
}

func appendTo(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// gather begins to; what a former run has kept is gone.
func (m *Matrix) gather(t Target, chosen []Suite) (*gathered, error) {
	g := &gathered{out: make([]bytes.Buffer, len(chosen)+1), ended: make([]vm.Event, len(chosen)+1), suites: chosen, target: t, log: m.Log}
	if m.Kept == "" {
		return g, nil
	}
	g.kept = filepath.Join(m.Kept, strings.ReplaceAll(t.String(), " ", "-"))
	err := os.MkdirAll(m.Kept, 0o755)
	for i := range g.out {
		if e := os.Remove(fmt.Sprintf("%s-%d.log", g.kept, i)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return g, err
}

// takeFiles reads what the machine has left: what the kernel has, and the verifier's figures.
func (r *Result) takeFiles(archive io.Reader) error {
	from := tar.NewReader(archive)
	for {
		header, err := from.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read what the machine has left: %w", err)
		}
		into := map[string]any{"features.json": &r.Features, "verifier.json": &r.Verifier}[header.Name]
		if into == nil {
			continue
		}
		if err := json.NewDecoder(from).Decode(into); err != nil {
			return fmt.Errorf("read %s: %w", header.Name, err)
		}
	}
	if r.Features == nil {
		return errors.New("the machine has left nothing about its kernel")
	}
	return nil
}

// judge turns what the suites printed into results.
func (m *Matrix) judge(ctx context.Context, r *Result, kernel *vm.Kernel, chosen []Suite, got *gathered) error {
	text, err := kernel.Config()
	if err != nil {
		return err
	}
	config, btf := parseConfig(string(text)), r.Features["btf"].Has
	before := got.ended[0].Uptime
	for i, s := range chosen {
		ended := got.ended[i+1]
		one, err := readTests(ctx, m.Root, &got.out[i+1])
		if err != nil {
			return err
		}
		one.Name, one.Seconds = s.Name, int((ended.Uptime - before).Seconds())
		before = ended.Uptime
		for _, skip := range one.Skipped {
			if wrong := judgeSkip(skip, r.Release, config, btf); wrong != "" {
				one.Failed = append(one.Failed, wrong)
			}
		}
		if ended.Code != 0 && len(one.Failed) == 0 {
			one.Failed = []string{fmt.Sprintf("ended with %d without a test that failed (late: %v)", ended.Code, ended.Late)}
		}
		if one.Passed == 0 && len(one.Failed) == 0 && len(one.Skipped) == 0 {
			one.Failed = []string{"no test was run"}
		}
		r.Suites = append(r.Suites, *one)
	}
	return nil
}
