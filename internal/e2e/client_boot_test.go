package e2e

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// TestRebootOfClientModeAlone: with no LAN to wait for, this machine is blocked first and then
// on Tor all the same; who has come in before goes on, whatever becomes of nftables then.
func TestRebootOfClientModeAlone(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	serveOwn(t, lab)
	inbound := comeIn(t, lab, "tcp")
	manager := listenAsServiceManager(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, "[client]", "enable = true"), "NOTIFY_SOCKET="+manager.path)
	manager.await(t, "READY=1")
	capture := captureWAN(t, lab)
	s := startSpeaker(t, lab, someone, "")
	if err := both(s.refused); err != nil {
		t.Errorf("while it boots: %v", err)
	}
	eventually(t, patience, "attach", func() error { return sound(t, lab) })
	manager.await(t, "STATUS=on Tor: this machine")
	if err := both(s.refused); err != nil { // Tor is not ready
		t.Errorf("attached: %v", err)
	}
	checkNoLeaks(t, capture)
	signalTo(t, d, unix.SIGSTOP)
	run(t, lab.Router, "nft", "flush", "ruleset")
	checkGoOn(t, "open before the boot, without nftables", inbound)
	signalTo(t, d, unix.SIGCONT)
	eventually(t, patience, "the repair", func() error { return sound(t, lab) })
}

// TestABrokenFileBlocksClientModeToo at boot, and says so.
func TestABrokenFileBlocksClientModeToo(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, "[client]", "enable = true"))
	eventually(t, patience, "attach", func() error { return sound(t, lab) })
	d.stop(t)
	powerOff(t, lab)
	r := runTorbpf(t, lab, "run", "--config", writeConfig(t, lab, "[client]", "enable = sometimes"))
	if r.code != 2 || !strings.Contains(r.stderr, "this machine") {
		t.Errorf("run with a broken file: %v", r)
	}
	capture := captureWAN(t, lab)
	if err := both(startSpeaker(t, lab, someone, "").refused); err != nil {
		t.Errorf("with a broken configuration: %v", err)
	}
	checkNoLeaks(t, capture)
}
