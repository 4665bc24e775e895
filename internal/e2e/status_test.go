package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestStatusTellsOfStoppedPackets: that the last guards had to stop something is
// an exit code of its own, until attach has repaired what was missing. Attaching
// under load is no such case.
func TestStatusTellsOfStoppedPackets(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	line := []string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}
	attach(t, lab, line...)
	sendStrays(t, lab.Client1)
	if r := runTorbpf(t, lab, "status"); r.code != 0 || !regexp.MustCompile(`stopped +0 packets`).MatchString(r.stdout) {
		t.Errorf("status of what is whole: %v", r)
	}
	removeAll(t, filepath.Join(pinDir(t, lab), "links", "lan-[0-9]*"))
	run(t, lab.Router, "nft", "delete", "table", "inet", "torbpf")
	sendStrays(t, lab.Client1)
	r := runTorbpf(t, lab, "status")
	if r.code != 4 || !strings.Contains(r.stdout, "no program lan on eth1") || !strings.Contains(r.stdout, "no table inet torbpf") {
		t.Errorf("status of what is broken: %v", r)
	}
	if !strings.Contains(r.stderr, "packets got as far as the last guards") {
		t.Errorf("status does not say why: %v", r)
	}
	mustTorbpf(t, lab, attachArgs(lab, line...)...)
	if r := runTorbpf(t, lab, "status"); r.code != 0 || strings.Contains(r.stdout, "no program lan") {
		t.Errorf("status of what was repaired: %v", r)
	}
}
