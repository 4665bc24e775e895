package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// reload has the daemon read another configuration, and returns what it logs from then on.
func reload(t *testing.T, lab *testnet.Lab, d *runDaemon, lines ...string) func() string {
	t.Helper()
	writeConfig(t, lab, append([]string{`interfaces = ["eth1"]`, `[exclusions]`}, lines...)...)
	before := len(d.log.String())
	since := func() string { return d.log.String()[before:] }
	signalTo(t, d, unix.SIGHUP)
	awaitIn(t, since, "the configuration is read anew")
	return since
}

func awaitIn(t *testing.T, log func() string, text string) {
	t.Helper()
	eventually(t, patience, "the log of "+text, func() error {
		if said := log(); !strings.Contains(said, text) {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
}

// reloaded is logged at the end of a reload.
const reloaded = "the configuration is in force"

// TestAReloadHoldsUpNoRepair: each comes as soon as ever, while long lists are read beside all
// else, with the old policy in force until the new one is there as a whole.
func TestAReloadHoldsUpNoRepair(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	n := lab.Client1
	w := watchLeaks(t, lab)
	var long []string
	for i := range 3 {
		path := filepath.Join(lab.Dir(), fmt.Sprintf("long%d.txt", i))
		if err := os.Rename(writeMillion(t, lab), path); err != nil {
			t.Fatal(err)
		}
		long = append(long, fmt.Sprintf("%q", path))
	}
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`))
	eventually(t, patience, "a sound state", func() error { return sound(t, lab, lan) })

	log := reload(t, lab, d, "lists = ["+strings.Join(long[:2], ", ")+"]")
	repair := func(earlier int) {
		t.Helper()
		rulesetGone.inflict(t, lab)
		eventually(t, fairly(t, soon), "a repair beside the reload", func() error {
			if said := log(); strings.Count(said, "msg=mended") <= earlier && !strings.Contains(said, reloaded) {
				return fmt.Errorf("it says %s", said)
			}
			return nil
		})
	}
	repair(0)
	if strings.Contains(log(), reloaded) {
		t.Errorf("the repair came behind the lists: %s", log())
	}
	noLeaks(t, w, "while lists are read")
	repairs := 1
	for ; !strings.Contains(log(), reloaded); repairs++ { // whatever the reload is at by then
		repair(repairs)
	}
	t.Logf("%d repairs while two lists of a million were read", repairs)
	eventually(t, patience, "a sound state", func() error { return sound(t, lab, lan) })
	checkEchoes(t, n, true, testnet.Other4)

	broken := writeList(t, lab, "broken.txt", other6, "10.0.0.1/8")
	log = reload(t, lab, d, fmt.Sprintf("lists = [%q]", broken), `destinations = ["203.0.113.0/24"]`)
	awaitIn(t, log, "the old one stays")
	if said := log(); !strings.Contains(said, broken+": line 2: ") {
		t.Errorf("it does not say what is broken: %s", said)
	}
	checkEchoes(t, n, true, testnet.Other4)
	checkEchoes(t, n, false, testnet.Other6)
	if r := mustTorbpf(t, lab, "exclude", "list"); strings.Contains(r.stdout, "203.0.113.0") || !strings.Contains(r.stdout, "long0.txt") {
		t.Errorf("the old policy is not whole: %v", r)
	}

	log = reload(t, lab, d, "lists = ["+strings.Join(long, ", ")+"]")
	mustTorbpf(t, lab, "detach", "--all")
	awaitIn(t, log, "it has been detached meanwhile")
	if r := runTorbpf(t, lab, "status"); r.code != 3 {
		t.Errorf("a reload under way has undone detach: %v", r)
	}
}
