package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// TestOneRunAtATime: a second `torbpf run` is refused, with who runs and what to do, attached or
// not; it takes the place of one that ends meanwhile, and of one that was killed.
func TestOneRunAtATime(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	file := writeConfig(t, lab, `interfaces = ["eth1"]`)
	refused := func(d *runDaemon) {
		t.Helper()
		r := runTorbpf(t, lab, "run", "--config", file)
		for _, says := range []string{fmt.Sprintf("(pid %d)", d.cmd.Process.Pid), "SIGHUP", "end it first"} {
			if r.code != 1 || !strings.Contains(r.stderr, says) {
				t.Errorf("a second torbpf run, which should say %q: %v", says, r)
			}
		}
	}
	first := startRun(t, lab, file)
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	refused(first)

	second := startRun(t, lab, file) // as by a service manager that is in a hurry
	second.await(t, "waiting: another torbpf is at work")
	first.stop(t)
	eventually(t, patience, "the second", func() error { return runsBy(t, lab, second) })
	signalTo(t, second, unix.SIGKILL)
	_ = second.cmd.Wait() // it was killed

	third := startRun(t, lab, file)
	eventually(t, patience, "the third", func() error { return runsBy(t, lab, third) })
	mustTorbpf(t, lab, "detach", "--all")
	refused(third)
	signalTo(t, third, unix.SIGKILL)
	_ = third.cmd.Wait()
	mustTorbpf(t, lab, "attach", "--no-wait", "--torrc", loneTorrc(t, lab), lan)
	mustTorbpf(t, lab, "detach", "--all")
	if _, err := os.Stat(runLock(t, lab)); !os.IsNotExist(err) {
		t.Errorf("detach has left what a killed torbpf run did: %v", err)
	}
}

// runLock is what `torbpf run` locks for its life.
func runLock(t testing.TB, lab *testnet.Lab) string { return stateDir(t, lab) + ".run" }

// runsBy is nil when a daemon is the one that runs.
func runsBy(t testing.TB, lab *testnet.Lab, d *runDaemon) error {
	text, err := os.ReadFile(runLock(t, lab))
	if err == nil && string(text) != fmt.Sprint(d.cmd.Process.Pid) {
		err = fmt.Errorf("pid %s runs, want %d: %s", text, d.cmd.Process.Pid, d.log)
	}
	return err
}
