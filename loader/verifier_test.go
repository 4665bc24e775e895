package loader

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

var updateBudget = flag.Bool("update", false, "write down what the verifier of this kernel takes")

// A rise that is no larger needs no reason.
const tolerance = 0.10

// budgetFile has, for each program, how many instructions the verifier of a kernel went
// through. A kernel that refuses a program, which then has a stand-in, has no entry.
const budgetFile = "testdata/verifier.json"

type budget map[string]map[string]int // program, kernel

// TestVerifierBudget holds each program to what verifiers took of it before: by a rise it
// comes nearer to the limit of a million, and attach takes longer. With -update it writes
// down the new figures; a rise of more than a tenth belongs into the commit's message.
func TestVerifierBudget(t *testing.T) {
	var known budget
	text, err := os.ReadFile(budgetFile)
	must(t, err)
	must(t, json.Unmarshal(text, &known))
	kernel := kernelVersion(t)
	now := verifyAll(t)
	writeFigures(t, now)
	if *updateBudget {
		updateKernel(t, known, kernel, now)
		return
	}
	column := nearest(known, kernel)
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, is := known[name][column], now[name]
		switch {
		case is == 0 && was != 0:
			t.Errorf("the verifier of Linux %s refuses %s, which that of %s takes", kernel, name, column)
		case column != kernel: // whose verifier goes through more, or less, of the same
		case is != 0 && was == 0 && os.Getenv(outVariable) != "": // so it has just been written down
			t.Logf("%s has no budget for Linux %s yet (now %d instructions)", name, column, is)
		case is != 0 && was == 0:
			t.Errorf("%s has no budget for Linux %s (now %d instructions): take over what make test-vm has written down, by go run ./testnet/cmd/kernels budget", name, column, is)
		case float64(is) > float64(was)*(1+tolerance):
			t.Errorf("%s: %d instructions processed on Linux %s, its budget is %d: if that has to be, say why where you commit the result of -update", name, is, kernel, was)
		}
	}
}

// kernelVersion is this kernel's, as in "6.12", "5.10 without BTF", "6.12 on arm64".
func kernelVersion(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	must(t, unix.Uname(&name))
	version := regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(name.Release[:]))
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(err, os.ErrNotExist) {
		version += " without BTF"
	}
	if runtime.GOARCH != "amd64" {
		version += " on " + runtime.GOARCH
	}
	return version
}

// nearest is the kernel of the budget that is the newest of those that are not newer.
func nearest(known budget, kernel string) (column string) {
	if _, there := known[programLAN][kernel]; there {
		return kernel
	}
	value := func(version string) (n int) {
		var major, minor int
		if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
			return 0
		}
		return major<<16 | minor
	}
	for version := range known[programLAN] {
		if after(version) == after(kernel) && value(version) <= value(kernel) && value(version) > value(column) {
			column = version
		}
	}
	return column
}

// after is what a kernel's name says besides its version.
func after(name string) string {
	_, rest, _ := strings.Cut(name, " ")
	return rest
}

// verifyAll loads each program by itself, as a plan with all that there is needs it; 0: this
// kernel refuses it.
func verifyAll(t *testing.T) map[string]int {
	t.Helper()
	must(t, liftMemlock())
	p := &plan.Plan{
		Mark: plan.Mark{Shift: 24}, Ports: plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054}, Fast: true,
		Onion4: netip.MustParsePrefix("10.192.0.0/10"), Onion6: netip.MustParsePrefix("fd74:6f72::/40"),
	}
	taken := make(map[string]int)
	for _, load := range []func() (*ebpf.CollectionSpec, error){abi.LoadDatapath, abi.LoadFast, abi.LoadGuards, abi.LoadClient} {
		spec, err := load()
		must(t, err)
		must(t, setVariables(spec, p))
		for name := range spec.Programs {
			taken[name] = verify(t, spec, name)
		}
	}
	return taken
}

var processed = regexp.MustCompile(`processed (\d+) insns`)

// verify returns how many instructions the verifier goes through.
func verify(t *testing.T, all *ebpf.CollectionSpec, name string) int {
	t.Helper()
	spec := all.Copy()
	maps.DeleteFunc(spec.Programs, func(other string, _ *ebpf.ProgramSpec) bool { return other != name })
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) || errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, btf.ErrNotFound) || errors.Is(err, unix.EINVAL) {
		t.Logf("%s is refused: %v", name, err)
		return 0
	}
	must(t, err)
	defer collection.Close()
	m := processed.FindStringSubmatch(collection.Programs[name].VerifierLog)
	if m == nil {
		t.Fatalf("%s: the verifier's log tells no instructions: %q", name, collection.Programs[name].VerifierLog)
	}
	n, err := strconv.Atoi(m[1])
	must(t, err)
	return n
}

// outVariable names the folder in which a virtual machine leaves what it was run for; package
// kernels sees to it that what has been written down becomes the budget.
const outVariable = "TORBPF_TEST_OUT"

// writeFigures leaves them for who runs this in a virtual machine.
func writeFigures(t *testing.T, taken map[string]int) {
	t.Helper()
	dir := os.Getenv(outVariable)
	if dir == "" {
		return
	}
	text, err := json.MarshalIndent(taken, "", "  ")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "verifier.json"), append(text, '\n'), 0o644))
}

func updateKernel(t *testing.T, known budget, kernel string, taken map[string]int) {
	t.Helper()
	maps.DeleteFunc(known, func(name string, _ map[string]int) bool { _, there := taken[name]; return !there })
	for name, n := range taken {
		if known[name] == nil {
			known[name] = make(map[string]int)
		}
		delete(known[name], kernel)
		if n > 0 {
			known[name][kernel] = n
		}
	}
	text, err := json.MarshalIndent(known, "", "  ")
	must(t, err)
	must(t, os.WriteFile(budgetFile, append(text, '\n'), 0o644))
}
