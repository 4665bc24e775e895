package route

import (
	"flag"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// enterNamespace moves the test into a new network namespace. The thread is
// never unlocked, so the runtime ends it with the test.
func enterNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace: %v; run as root", err)
	}
}

// run runs commands of one line each in the namespace of the calling thread and
// returns what they said.
func run(t *testing.T, lines string) string {
	t.Helper()
	var said strings.Builder
	for line := range strings.Lines(lines) {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", strings.TrimSpace(line), err, out)
		}
		said.Write(out)
	}
	return said.String()
}

// golden compares text with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := "testdata/" + file
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

// planFor is the part of a plan that rules depend on.
func planFor(exempt []config.Mark, lans ...string) *plan.Plan {
	p := &plan.Plan{Mark: plan.Mark{Shift: 24}, Rules: config.DirectMarks(exempt...)}
	for _, lan := range lans {
		p.LANs = append(p.LANs, plan.LAN{Name: lan})
	}
	return p
}

func apply(t *testing.T, p *plan.Plan) {
	t.Helper()
	if err := Apply(p); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T) {
	t.Helper()
	if err := Remove(); err != nil {
		t.Fatal(err)
	}
}

// missing is what Present says.
func missing(t *testing.T, p *plan.Plan) []string {
	t.Helper()
	list, err := Present(p)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// listed is what the user would see of both families.
func listed(t *testing.T) string {
	t.Helper()
	return run(t, "ip -4 rule show\nip -6 rule show")
}
