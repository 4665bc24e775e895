package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// serviceManager listens where `torbpf run` reports to systemd.
type serviceManager struct {
	conn *net.UnixConn
	path string
}

func listenAsServiceManager(t testing.TB, lab *testnet.Lab) *serviceManager {
	t.Helper()
	path := filepath.Join(lab.Dir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &serviceManager{conn, path}
}

// await returns when a state has been reported.
func (m *serviceManager) await(t testing.TB, state string) {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		if err := m.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := m.conn.Read(buf)
		if err != nil {
			t.Fatalf("wait for %s: %v", state, err)
		}
		if strings.Contains(string(buf[:n]), state) {
			return
		}
	}
}

// TestRebootHasNoOpenInstant goes through a boot step by step: what the unit
// promises is that the LAN is blocked when the network comes up, and from then on
// it never is anything but blocked or on Tor.
func TestRebootHasNoOpenInstant(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	detachLater(t, lab)
	manager := listenAsServiceManager(t, lab)
	// The network is not up: there is no interface of that name.
	run(t, lab.Router, "ip", "link", "set", lan, "down")
	run(t, lab.Router, "ip", "link", "set", lan, "name", "off0")
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`), "NOTIFY_SOCKET="+manager.path)
	manager.await(t, "READY=1")
	// From here on the service manager lets the network come up, and the daemon
	// may be as slow as it likes.
	signalTo(t, d, unix.SIGSTOP)
	rename(t, lab, "off0", lan)
	noLeaks(t, w, "the interface is up, nothing is attached")
	run(t, lab.Router, "nft", "add", "table", "ip", "late")
	noLeaks(t, w, "another firewall was loaded")
	signalTo(t, d, unix.SIGCONT)
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	manager.await(t, "STATUS=on Tor: "+lan)
	manager.await(t, "WATCHDOG=1")
	noLeaks(t, w, "attached")
}

// TestTheBlockHoldsWithoutNFTables: an interface that has no address yet is known to the
// guards, so that a ruleset that is flushed at boot opens nothing.
func TestTheBlockHoldsWithoutNFTables(t *testing.T) {
	for _, name := range []string{"eth1", "eth*"} {
		t.Run(name, func(t *testing.T) {
			lab := plainLab(t, testnet.Options{})
			w := watchLeaks(t, lab)
			detachLater(t, lab)
			run(t, lab.Router, "ip", "addr", "flush", "dev", lan)
			d := startRun(t, lab, writeConfig(t, lab, fmt.Sprintf("interfaces = [%q]", name), `uplinks = ["eth0"]`))
			d.await(t, "interfaces that are waited for, or uplinks, have come or gone")
			signalTo(t, d, unix.SIGSTOP)
			rulesetGone.inflict(t, lab)
			noLeaks(t, w, "blocked, and nftables gone")
			signalTo(t, d, unix.SIGCONT)
			for _, a := range []string{testnet.LANRouter4.String() + "/24", testnet.LANRouterULA.String() + "/64", testnet.LANRouter6.String() + "/64"} {
				run(t, lab.Router, "ip", "addr", "add", a, "dev", lan, "nodad")
			}
			eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
			noLeaks(t, w, "attached")
		})
	}
}

// TestACrashIsNoBrokenConfiguration: the exit code of a configuration that cannot be used,
// after which systemd starts the unit no more, is Go's of a crash as well; and a watchdog ends
// a daemon that hangs by SIGABRT.
func TestACrashIsNoBrokenConfiguration(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := lab.Router.Command(ctx, program, "run", "--config", writeConfig(t, lab, `interfaces = ["eth1"]`))
	log := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	if err := cmd.Process.Signal(unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != unix.SIGABRT {
		t.Errorf("it ended with %v", err)
	}
	if !strings.Contains(log.String(), "daemon.Run") {
		t.Errorf("it does not say where it was: %s", log)
	}
}

func signalTo(t testing.TB, d *runDaemon, s unix.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenConfigurationAtBootStaysClosed: a file that cannot be read any more
// leaves the interfaces of the last one that could be blocked.
func TestBrokenConfigurationAtBootStaysClosed(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	detachLater(t, lab)
	file := writeConfig(t, lab, `interfaces = ["eth1"]`)
	d := startRun(t, lab, file)
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	d.stop(t)
	powerOff(t, lab)
	file = writeConfig(t, lab, `interfaces = ["eth1"]`, `interfacs = ["eth2"]`)
	r := runTorbpf(t, lab, "run", "--config", file)
	if r.code != 2 || !strings.Contains(r.stderr, "torbpf.toml:2:") || !strings.Contains(r.stderr, "interfacs") {
		t.Errorf("run with a broken file: %v", r)
	}
	noLeaks(t, w, "with a broken configuration")
	startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`))
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
}

// powerOff removes all that does not survive a reboot, without a detach.
func powerOff(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	kill(t, unix.SIGKILL, ourProcesses(t, lab)...)
	emptyKernel(t, lab)
	for _, path := range []string{pinDir(t, lab), filepath.Join(stateDir(t, lab), "state.json")} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// emptyKernel removes what of a router without pins and processes is left in the kernel.
func emptyKernel(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		run(t, lab.Router, "ip", family, "rule", "flush", "protocol", "84")
	}
	run(t, lab.Router, "nft", "delete", "table", "inet", "torbpf")
}

// TestRunWithTheCapabilitiesOfItsUnit: what the systemd unit leaves the daemon is
// enough to attach, to repair and to start tor and the sentry.
func TestRunWithTheCapabilitiesOfItsUnit(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	unit, err := os.ReadFile("../../packaging/systemd/torbpf.service.in")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(string(unit))
	if line == nil {
		t.Fatal("the unit bounds no capabilities")
	}
	bound := "-all"
	for _, name := range strings.Fields(line[1]) {
		bound += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	file := writeConfig(t, lab, `interfaces = ["eth1"]`)
	startRunBy(t, lab.Router.Command(context.Background(), "setpriv", "--no-new-privs", "--bounding-set", bound, program, "run", "--config", file))
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	for _, f := range []harm{pinsGone, torGone, sentryGone} {
		f.inflict(t, lab)
		eventually(t, patience, "the repair of "+f.name, func() error { return sound(t, lab, lan) })
	}
	if pids := ourProcesses(t, lab); len(pids) != 2 {
		t.Error(fmt.Errorf("processes %v, want tor and the sentry", pids))
	}
}
