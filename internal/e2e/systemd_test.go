package e2e

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// sending has the clients try everything, again and again, while f runs, and returns what
// got out.
func sending(t *testing.T, w leakWatch, f func()) []leaktest.Leak {
	t.Helper()
	w.Reset()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		var err error
		for err == nil && ctx.Err() == nil {
			err = w.Battery(context.WithoutCancel(ctx), new(leaktest.Tally))
		}
		ended <- err
	}()
	func() {
		defer func() { // whatever becomes of f
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		f()
	}()
	return w.Leaks(nil)
}

// TestTheUnitUnderSystemd: the unit does under a systemd what it promises, its sandbox and
// its order at boot included. It installs a system first, which `make deps-systemd` makes
// possible.
func TestTheUnitUnderSystemd(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	m := newMachine(t, lab)
	onHost(t, "make", "-C", "../..", "install", "DESTDIR="+m.root)
	t.Cleanup(func() { m.powerOff(t) })
	m.boot(t)
	m.run(t, "torbpf", "attach", "--no-wait", "--torrc", "/etc/torbpf/lone.torrc", lan)
	m.checkBoot(t, "nothing starts torbpf at boot")
	m.run(t, "torbpf", "enable")
	m.checkBoot(t, "")
	m.awaitTor(t, "0")
	for _, phase := range []struct {
		name     string
		do       func(*testing.T)
		restarts string
		sameTor  bool
	}{
		{"restart", func(t *testing.T) { m.run(t, "systemctl", "restart", "torbpf") }, "0", true},
		{"killed", func(t *testing.T) { m.signal(t, "KILL") }, "1", true},
		{"hangs", func(t *testing.T) { m.signal(t, "STOP") }, "2", true},
		{"stopped", func(t *testing.T) {
			m.run(t, "systemctl", "stop", "torbpf")
			m.run(t, "torbpf", "check", "--layers")
			m.run(t, "systemctl", "start", "torbpf")
		}, "0", true},
		{"reboot", func(t *testing.T) { m.reboot(t) }, "0", false},
	} {
		t.Run(phase.name, func(t *testing.T) {
			tor := m.run(t, "pgrep", "-x", "tor")
			begin := time.Now()
			leaks := sending(t, w, func() {
				phase.do(t)
				m.awaitTor(t, phase.restarts)
			})
			if len(leaks) > 0 {
				t.Errorf("%d packets got out: %v, …", len(leaks), leaks[:min(len(leaks), 10)])
			}
			t.Logf("all layers stand again after %v", time.Since(begin).Round(time.Millisecond))
			if now := m.run(t, "pgrep", "-x", "tor"); phase.sameTor && now != tor {
				t.Errorf("tor was %s and is %s", tor, now)
			}
		})
	}
	m.run(t, "torbpf", "disable")
	m.run(t, "torbpf", "check", "--layers")
	m.run(t, "torbpf", "detach", "--all")
	if r := m.try(t, "systemctl", "is-enabled", "torbpf"); r.code == 0 {
		t.Errorf("disable: %v", r)
	}
	if r := m.try(t, "ls", "/run/torbpf"); r.code == 0 {
		t.Errorf("detach left /run/torbpf: %v", r)
	}
}

// checkBoot has the doctor say whether a reboot removes what is attached; "" for that it does not.
func (m *machine) checkBoot(t *testing.T, want string) {
	t.Helper()
	checkBootFinding(t, m.try(t, "torbpf", "doctor", "--json").stdout, want)
}

// checkBootFinding looks for what a report says of boot.
func checkBootFinding(t *testing.T, text, want string) {
	t.Helper()
	var report doctor.Report
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if got := findings(&report, "boot"); !strings.Contains(got, want) || want == "" && got != "[]" {
		t.Errorf("of boot the doctor says %s, want %q", got, want)
	}
}

// reboot ends the machine with all that is in its kernel, and starts it.
func (m *machine) reboot(t *testing.T) {
	t.Helper()
	run(t, m.lab.Router, "ip", "link", "set", lan, "down")
	m.powerOff(t)
	emptyKernel(t, m.lab)
	m.boot(t)
	blocked, up := m.show(t, "ActiveEnterTimestampMonotonic", "torbpf"), m.show(t, "InactiveExitTimestampMonotonic", "dhcpcd")
	b, errB := strconv.Atoi(blocked)
	u, errU := strconv.Atoi(up)
	if errB != nil || errU != nil || b == 0 || b > u {
		t.Errorf("the LAN was blocked at %s µs, and the network came up at %s µs", blocked, up)
	}
}
