package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// TestAPlantedLeakIsAnAlarm: with the layers before it taken away, what a last guard
// stops shows in status, in the daemon's log, and in check with the packet's header
// and an exit code of its own, until attach acknowledges it.
func TestAPlantedLeakIsAnAlarm(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`))
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	if r := runTorbpf(t, lab, "check", "--layers"); r.code != 0 || !strings.Contains(r.stdout, "stopped: 0 packets") {
		t.Errorf("check of a sound router: %v", r)
	}
	if _, err := testnet.DNSQuery(lab.Router, at(testnet.Resolver4, testnet.PortDNS), "own."+testnet.Zone, "A", "udp", patience); err != nil {
		t.Fatal(err)
	}
	if r := runTorbpf(t, lab, "status"); r.code != 0 || !strings.Contains(r.stdout, "1 packets of the router itself") {
		t.Errorf("status after a query of the router's own: %v", r)
	}
	signalTo(t, d, unix.SIGSTOP)
	tcxGone.inflict(t, lab)
	rulesetGone.inflict(t, lab)
	forwardGone.inflict(t, lab)
	capture := captureWAN(t, lab)
	for range 3 {
		if err := testnet.SendRaw(lab.Client1, testnet.UDPDatagram(at(lab.Client1.IPv4, 40000), at(testnet.Web4, 4433), []byte("planted"))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, patience, "the alarm of status", func() error {
		if r := runTorbpf(t, lab, "status"); r.code != 4 || !strings.Contains(r.stdout, "3 packets got as far as the last guards") {
			return fmt.Errorf("status: %v", r)
		}
		return nil
	})
	if report, r := examined(t, lab); !slices.Contains(unwell(report), "alarms problem") || r.code != 1 {
		t.Errorf("doctor: %v", r)
	}
	signalTo(t, d, unix.SIGCONT)
	eventually(t, patience, "the alarm of check", func() error {
		var check struct {
			Stopped int
			Alarms  []struct {
				Interface, Reason, Src, Dst string
				Protocol                    int
			}
		}
		r := runTorbpf(t, lab, "check", "--json")
		if err := json.Unmarshal([]byte(r.stdout), &check); err != nil || r.code != 4 {
			return fmt.Errorf("%w: %v", err, r)
		}
		if check.Stopped != 3 || len(check.Alarms) != 3 {
			return fmt.Errorf("check: %+v", check)
		}
		if a := check.Alarms[0]; a.Interface != wan || a.Reason != "uplink-guard" || a.Protocol != 17 || a.Dst != testnet.Web4.String()+":4433" {
			return fmt.Errorf("the header is %+v", a)
		}
		return nil
	})
	eventually(t, patience, "the repair", func() error { return sound(t, lab, lan) })
	checkNoLeaks(t, capture)
	log := d.log.String()
	if !strings.Contains(log, "ALARM") || strings.Contains(log, testnet.Web4.String()) {
		t.Errorf("the log has no alarm, or says whom a device wanted: %s", log)
	}
	if info, err := os.Stat(stateDir(t, lab) + "/alarms.jsonl"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of alarms: %v, %v", info, err)
	}
	mustTorbpf(t, lab, "attach", lan, "--no-wait")
	if r := runTorbpf(t, lab, "check", "--layers"); r.code != 0 || strings.Contains(r.stdout, "uplink-guard") {
		t.Errorf("check after attach: %v", r)
	}
}
