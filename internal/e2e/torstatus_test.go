package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
	"github.com/torbpf/torbpf/tor"
)

// torReport is what `torbpf tor status` says.
func torReport(t testing.TB, lab *testnet.Lab) router.TorReport {
	t.Helper()
	var report router.TorReport
	out := mustTorbpf(t, lab, "tor", "status", "--json").stdout
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return report
}

// TestTorStatus: of a tor that serves it tells circuits, traffic and guards; of one that
// hangs or is gone why it does not answer, and what to do.
func TestTorStatus(t *testing.T) {
	lab := torLab(t)
	if r := runTorbpf(t, lab, "tor", "status"); r.code != 3 {
		t.Errorf("while nothing is attached: %v", r)
	}
	attach(t, lab, lan)
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	report := torReport(t, lab)
	if len(report.Instances) != 1 {
		t.Fatalf("it has %+v", report)
	}
	d := report.Instances[0]
	if !d.Alive || !d.Ready || d.PID == 0 || d.Circuits == 0 || d.States[tor.Built] != d.Circuits || d.Read == 0 || d.Written == 0 || d.Uptime == 0 || !d.Network || d.Skew != "" || d.Next != "" {
		t.Errorf("it says %+v", d)
	}
	connected := false
	for _, g := range d.Guards {
		connected = connected || g.Connected && g.Nickname != "" && len(g.Fingerprint) == 40
	}
	if !connected {
		t.Errorf("no guard is in use: %+v", d.Guards)
	}
	for _, args := range [][]string{{"tor", "status"}, {"status"}} {
		if out := mustTorbpf(t, lab, args...).stdout; !strings.Contains(out, "circuit") || !strings.Contains(out, "100% (Done)") {
			t.Errorf("%v: %s", args, out)
		}
	}
	pid := torPID(t, lab)
	kill(t, unix.SIGSTOP, pid)
	if r := mustTorbpf(t, lab, "tor", "status"); !strings.Contains(r.stdout, "no answer") || !strings.Contains(r.stdout, fmt.Sprintf("process %d hangs", pid)) {
		t.Errorf("of a tor that hangs: %v", r)
	}
	kill(t, unix.SIGKILL, pid)
	eventually(t, patience, "tor to be told as gone", func() error {
		if d := torReport(t, lab).Instances[0]; d.Alive || !strings.Contains(d.Next, "sudo torbpf attach") || d.PID != 0 {
			return fmt.Errorf("it says %+v", d)
		}
		if r := runTorbpf(t, lab, "tor", "status"); r.code != 0 || !strings.Contains(r.stdout, "sudo torbpf attach") {
			return errors.New(r.String())
		}
		return nil
	})
}
