package e2e

import (
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// said is a command and what it must say, on stdout or stderr.
type said struct {
	line string
	code int
	want string
}

func (s said) check(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	r := runTorbpf(t, lab, strings.Fields(s.line)...)
	if out := r.stdout + r.stderr; r.code != s.code || !strings.Contains(out, s.want) {
		t.Errorf("torbpf %s: %v\nwant exit code %d and %q", s.line, r, s.code, s.want)
	}
}

// TestHalvesNeedForce: what leaves nothing to Tor is insisted on, whether it comes as one
// prefix or in parts, and whether or not one of them ends.
func TestHalvesNeedForce(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, step := range []said{
		{"exclude add 0.0.0.0/1 128.0.0.0/1", 2, "0.0.0.0/1, 128.0.0.0/1 together would let everything past Tor"},
		{"exclude add --source ::/1 8000::/1", 2, "insist with --force"},
		{"exclude add 0.0.0.0/1 --for 50h", 0, "added"},
		{"exclude add 128.0.0.0/1", 2, "insist with --force"},
		{"exclude add 0.0.0.0/1", 0, "changed"},
		{"exclude add 0.0.0.0/1 --policy tor --for 1h", 0, "then direct again"},
		{"exclude add 128.0.0.0/1", 2, "insist with --force"},
		{"exclude add 128.0.0.0/1 --force", 0, "added"},
		{"exclude del 0.0.0.0/1", 0, "removed"},
		{"exclude add 0.0.0.0/1", 2, "insist with --force"},
		{"exclude add 0.0.0.0/1 --force", 0, "hardly anything is Tor's"},
		{"status", 0, "0.0.0.0/1, 128.0.0.0/1 together is excluded, so hardly anything is Tor's"},
	} {
		step.check(t, lab)
	}
}
