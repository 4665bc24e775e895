package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// startWatch starts `torbpf explain --watch` about a device.
func startWatch(t *testing.T, lab *testnet.Lab, who string) *runDaemon {
	t.Helper()
	return startRunBy(t, lab.Router.Command(context.Background(), program, "explain", "--watch", "--from", who))
}

// refusedTo has a device refused until a watcher says so of a port of its own.
func refusedTo(t *testing.T, w *runDaemon, device *testnet.Node, port uint16) {
	t.Helper()
	line := fmt.Sprintf("%s:40000 > %s:%d, udp, by eth1: udp, Tor carries no UDP\n", device.IPv4, testnet.Web4, port)
	eventually(t, patience, "the line "+line, func() error {
		if err := testnet.SendRaw(device, testnet.UDPDatagram(at(device.IPv4, 40000), at(testnet.Web4, port), []byte("x"))); err != nil {
			return err
		}
		if log := w.log.String(); !strings.Contains(log, line) {
			return fmt.Errorf("it says %s", log)
		}
		return nil
	})
}

// TestExplainWatch: one device's refusals, as they come, whether `torbpf run` reads them
// or nobody else; and what the watcher reads of alarms is not lost to check.
func TestExplainWatch(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	socket := filepath.Join(stateDir(t, lab), "refusals.sock")
	if r := runTorbpf(t, lab, "explain", "--watch", "--from", "192.168.50.11"); r.code != 3 {
		t.Errorf("while nothing is attached: %v", r)
	}
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	if err := testnet.SendRaw(lab.Client1, testnet.UDPDatagram(at(lab.Client1.IPv4, 40000), at(testnet.Web4, 999), nil)); err != nil {
		t.Fatal(err)
	}
	alone := startWatch(t, lab, lab.Client1.IPv4.String())
	refusedTo(t, alone, lab.Client1, 1001)
	if r := runTorbpf(t, lab, "explain", "--watch", "--from", "192.168.50.12"); r.code != 1 || !strings.Contains(r.stderr, "somebody else watches already") {
		t.Errorf("a second watcher without `torbpf run`: %v", r)
	}
	for _, args := range [][]string{{"--watch"}, {"--watch", "--from", "printer"}, {"--watch", "--from", "192.168.50.11", "--to", "1.1.1.1"}} {
		if r := runTorbpf(t, lab, append([]string{"explain"}, args...)...); r.code != 2 {
			t.Errorf("explain %v: %v", args, r)
		}
	}

	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`))
	eventually(t, patience, "the socket", func() error { _, err := os.Stat(socket); return err })
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	mustTorbpf(t, lab, "device", "name", testnet.MACClient2, "tv")
	other := startWatch(t, lab, "tv")
	run(t, lab.Client2, "ping", "-q", "-c", "1", "-W", "2", testnet.LANRouter4.String()) // now the router knows an address of it
	refusedTo(t, alone, lab.Client1, 1002)
	refusedTo(t, other, lab.Client2, 1003)
	signalTo(t, alone, unix.SIGSTOP) // who does not read holds up nobody
	refusedTo(t, other, lab.Client2, 1004)
	signalTo(t, alone, unix.SIGCONT)
	refusedTo(t, alone, lab.Client1, 1005)

	mustTorbpf(t, lab, "attach", lan, "--no-wait")
	refusedTo(t, other, lab.Client2, 1006)
	signalTo(t, d, unix.SIGKILL)
	if err := d.cmd.Wait(); err == nil {
		t.Error("torbpf run was not killed")
	}
	other.stop(t)
	refusedTo(t, alone, lab.Client1, 1007)
	if log := alone.log.String(); strings.Contains(log, lab.Client2.IPv4.String()+":") || strings.Contains(log, ":999,") {
		t.Errorf("it tells of what nobody asked for: %s", log)
	}
	mustTorbpf(t, lab, "detach", "--all")
	eventually(t, patience, "the watcher's end", func() error {
		if !strings.Contains(alone.log.String(), "not attached") {
			return fmt.Errorf("it says %s", alone.log)
		}
		return nil
	})
	if err := alone.cmd.Wait(); alone.cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("it ended with %v", err)
	}
}

// TestAWatcherKeepsAlarms: where `torbpf run` does not read them.
func TestAWatcherKeepsAlarms(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	w := startWatch(t, lab, lab.Client1.IPv4.String())
	refusedTo(t, w, lab.Client1, 1001)
	tcxGone.inflict(t, lab)
	rulesetGone.inflict(t, lab)
	forwardGone.inflict(t, lab)
	if err := testnet.SendRaw(lab.Client1, testnet.UDPDatagram(at(lab.Client1.IPv4, 40000), at(testnet.Web4, 4433), []byte("planted"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the alarm", func() error {
		if r := runTorbpf(t, lab, "check"); r.code != 4 || !strings.Contains(r.stdout, testnet.Web4.String()+":4433") {
			return fmt.Errorf("check: %v", r)
		}
		return nil
	})
	// One that was stopped in the middle cannot make room; the daemon says so and waits.
	signalTo(t, w, unix.SIGSTOP)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`))
	d.await(t, "was stopped while it reads refusals")
	signalTo(t, w, unix.SIGCONT)
	eventually(t, patience, "the repair", func() error { return sound(t, lab, lan) })
	refusedTo(t, w, lab.Client1, 1002)
}
