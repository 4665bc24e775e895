package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestBlockOnlyBlocksAndEnds: what service managers run that do not wait for a daemon to be ready
// leaves the interfaces blocked when it returns, with nobody there; it says what keeps it from
// that, and is content where the daemon has done it.
func TestBlockOnlyBlocksAndEnds(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	detachLater(t, lab)
	if r := runTorbpf(t, lab, "run", "--block-only", "--config", filepath.Join(lab.Dir(), "none.toml")); r.code != 3 || !strings.Contains(r.stderr, "torbpf attach INTERFACE") {
		t.Errorf("without a configuration: %v", r)
	}
	file := writeConfig(t, lab, `interfaces = ["eth1"]`)
	mustTorbpf(t, lab, "run", "--block-only", "--config", file)
	noLeaks(t, w, "blocked, with no daemon")
	if pids := ourProcesses(t, lab); len(pids) > 0 {
		t.Errorf("processes %v go on", pids)
	}
	mustTorbpf(t, lab, "run", "--block-only", "--config", file) // again
	startRun(t, lab, file)
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	if r := mustTorbpf(t, lab, "run", "--block-only", "--config", file); !strings.Contains(r.stderr, "torbpf run is there") {
		t.Errorf("beside the daemon: %v", r)
	}
	if err := sound(t, lab, lan); err != nil {
		t.Errorf("beside the daemon it took something away: %v", err)
	}
}
