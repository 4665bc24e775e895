package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// noCells is nil when neither the state nor a control group tells of what exec runs.
func noCells(t testing.TB, lab *testnet.Lab) error {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(stateDir(t, lab), "state.json"))
	if err != nil {
		return err
	}
	var state struct{ Cells []any }
	if err := json.Unmarshal(text, &state); err != nil {
		return err
	}
	if left := cells(t, lab); len(state.Cells)+len(left) > 0 {
		return fmt.Errorf("the state has %v, and there is %v", state.Cells, left)
	}
	return nil
}

// TestRunEndsWhatAKilledExecHasLeft: the program's children, its control group and what the
// state has of it, even where the group has gone by itself.
func TestRunEndsWhatAKilledExecHasLeft(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, "[client]", "enable = true"))
	eventually(t, patience, "attach", func() error { return sound(t, lab) })
	e := startExec(t, lab, `sleep 600 & echo began; read`, "--direct")
	e.says(t, "began")
	e.kill(t)
	eventually(t, patience, "the end of what is left", func() error { return noCells(t, lab) })

	e = startExec(t, lab, `echo began; read`, "--direct")
	e.says(t, "began")
	signalTo(t, d, unix.SIGSTOP)
	e.kill(t)
	eventually(t, patience, "the end of the program", func() error {
		for _, group := range cells(t, lab) {
			if err := os.Remove(group); err != nil {
				return err
			}
		}
		return nil
	})
	signalTo(t, d, unix.SIGCONT)
	eventually(t, patience, "the end of what the state has", func() error { return noCells(t, lab) })
	eventually(t, patience, "soundness", func() error { return sound(t, lab) })
}
