package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// buildDeb makes the package of a version, and returns it as it is seen in the machine.
func (m *machine) buildDeb(t *testing.T, version string) string {
	t.Helper()
	dist := filepath.Join(m.root, "srv", version)
	onHost(t, "make", "-C", "../..", "packages", "VERSION="+version, "FORMATS=deb", "ARCHS="+runtime.GOARCH, "DIST="+dist)
	found, err := filepath.Glob(filepath.Join(dist, "deb", "*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages of %s: %v, %v", version, found, err)
	}
	return strings.TrimPrefix(found[0], m.root)
}

// missing returns those of some files that the machine does not have.
func (m *machine) missing(paths ...string) (out []string) {
	for _, path := range paths {
		if _, err := os.Lstat(filepath.Join(m.root, path)); err != nil {
			out = append(out, path)
		}
	}
	return out
}

// unit is what systemd says of the service.
func (m *machine) unit(t *testing.T) string {
	t.Helper()
	return m.show(t, "UnitFileState", "torbpf") + " " + m.show(t, "ActiveState", "torbpf")
}

func (m *machine) ipRules(t *testing.T) string {
	t.Helper()
	return m.run(t, "ip", "rule") + "\n" + m.run(t, "ip", "-6", "rule")
}

const (
	packageConfig  = "/etc/torbpf/torbpf.toml"
	packageState   = "/var/lib/torbpf/host/guarded.json"
	packageEnabled = "/etc/systemd/system/multi-user.target.wants/torbpf.service"
)

// TestThePackageThroughItsLife: a deb is installed, which starts nothing; attached; upgraded
// while devices try everything; removed, which lets traffic out directly; installed again, and
// purged. What is the administrator's stays.
func TestThePackageThroughItsLife(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	m := newMachine(t, lab)
	older, newer := m.buildDeb(t, "v1.0.0"), m.buildDeb(t, "v1.0.1")
	t.Cleanup(func() { m.powerOff(t) })
	m.boot(t)
	rules := m.ipRules(t)

	m.run(t, "dpkg", "-i", older)
	if state := m.unit(t); state != "disabled inactive" {
		t.Errorf("installed, the service is %s", state)
	}
	if left := m.missing(packageConfig, "/var/lib/torbpf"); len(left) != 2 {
		t.Errorf("the installation has made one of %s and /var/lib/torbpf", packageConfig)
	}
	m.run(t, "torbpf", "attach", "--no-wait", "--torrc", "/etc/torbpf/lone.torrc", lan)
	m.run(t, "torbpf", "enable")
	m.awaitTor(t, "0")
	checkUpgrade(t, w, m, newer)
	checkFailedRemoval(t, m)

	m.run(t, "dpkg", "--remove", "torbpf")
	checkRemoved(t, m, rules)
	if gone := m.missing(packageConfig, packageState, packageEnabled); len(gone) > 0 {
		t.Errorf("the removal took %v", gone)
	}
	m.run(t, "dpkg", "-i", newer)
	if state := m.unit(t); state != "enabled inactive" {
		t.Errorf("installed again, the service is %s", state)
	}
	m.run(t, "systemctl", "start", "torbpf")
	m.awaitTor(t, "0")

	m.run(t, "dpkg", "--purge", "torbpf")
	checkRemoved(t, m, rules)
	if left := m.missing(packageConfig, "/etc/torbpf/torbpf.d", "/var/lib/torbpf", packageEnabled); len(left) != 4 {
		t.Errorf("of what is to be gone after a purge only %v is", left)
	}
	if gone := m.missing("/etc/torbpf/lone.torrc"); len(gone) > 0 {
		t.Errorf("the purge took %v, which is the administrator's", gone)
	}
}

// checkUpgrade: another program and another daemon, the same tor, and nothing gets out.
func checkUpgrade(t *testing.T, w leakWatch, m *machine, newer string) {
	t.Helper()
	tor, daemon := m.run(t, "pgrep", "-x", "tor"), m.show(t, "MainPID", "torbpf")
	config, err := os.ReadFile(filepath.Join(m.root, packageConfig))
	if err != nil {
		t.Fatal(err)
	}
	leaks := sending(t, w, func() {
		m.run(t, "dpkg", "-i", newer)
		m.awaitTor(t, "0")
	})
	if len(leaks) > 0 {
		t.Errorf("%d packets got out in the upgrade: %v, …", len(leaks), leaks[:min(len(leaks), 10)])
	}
	now := m.show(t, "MainPID", "torbpf")
	if exe := m.run(t, "readlink", "/proc/"+now+"/exe"); now == daemon || exe != "/usr/sbin/torbpf" {
		t.Errorf("the daemon was process %s, and is %s of %s", daemon, now, exe)
	}
	if v := m.run(t, "torbpf", "version"); v != "torbpf v1.0.1" {
		t.Errorf("it is %s", v)
	}
	if after := m.run(t, "pgrep", "-x", "tor"); after != tor {
		t.Errorf("tor was %s and is %s", tor, after)
	}
	if after, err := os.ReadFile(filepath.Join(m.root, packageConfig)); err != nil || string(after) != string(config) {
		t.Errorf("the configuration was %s and is %s (%v)", config, after, err)
	}
}

// stubborn is a program that cannot detach.
const stubborn = `#!/bin/sh
[ "$1" != detach ] || exit 1
exec /usr/sbin/torbpf.real "$@"
`

// checkFailedRemoval: what cannot be detached stays, and so do the package and its daemon.
func checkFailedRemoval(t *testing.T, m *machine) {
	t.Helper()
	path := filepath.Join(m.root, "/usr/sbin/torbpf")
	if err := os.Rename(path, path+".real"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(stubborn), 0o755); err != nil {
		t.Fatal(err)
	}
	r := m.try(t, "dpkg", "--remove", "torbpf")
	if r.code == 0 || !strings.Contains(r.stderr, "torbpf is not removed") {
		t.Errorf("a removal without detach: %v", r)
	}
	if err := os.Rename(path+".real", path); err != nil {
		t.Fatal(err)
	}
	if status := m.run(t, "dpkg-query", "-W", "-f", "${db:Status-Status}", "torbpf"); status != "installed" {
		t.Errorf("the package is %s", status)
	}
	m.awaitTor(t, "0")
}

// checkRemoved: the program is gone, and so is all that it had put into the kernel.
func checkRemoved(t *testing.T, m *machine, rules string) {
	t.Helper()
	var left []string
	for _, args := range [][]string{{"nft", "list", "table", "inet", "torbpf"}, {"pgrep", "-x", "tor|torbpf.*"}, {"ls", "/run/torbpf"}, {"which", "torbpf"}} {
		if r := m.try(t, args...); r.code == 0 {
			left = append(left, fmt.Sprintf("%v: %s", args, r.stdout))
		}
	}
	if now := m.ipRules(t); now != rules {
		left = append(left, "ip rules: "+now)
	}
	if len(left) > 0 {
		t.Errorf("left after the removal: %s", strings.Join(left, "; "))
	}
}
