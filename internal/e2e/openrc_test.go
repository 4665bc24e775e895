package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// openRCRoot makes a system of its own of this host's files, those of OpenRC that are unpacked,
// and what is the test's, in $1. It is process 1 there, until its input ends.
const openRCRoot = `set -e
cache=/var/cache/torbpf-tests
test -e $cache/usr/sbin/openrc || { echo "run packaging/deps.sh test" >&2; exit 1; }
own() { # FOLDER IN LOWER
	mkdir -p "$2/$1" "$2/work-$1"
	mount -t overlay overlay -o "lowerdir=$3,upperdir=$2/$1,workdir=$2/work-$1" "/$1"
}
own usr "$1" $cache/usr:/usr
own etc "$1" $cache/etc:/etc
own var "$1" /var
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/openrc "$1/init.d"
mount --bind "$1/init.d" /etc/init.d
openrc sysinit
touch /run/up
read -r end || true
`

// openRCNetwork brings the LAN up as Alpine's networking does, once it has seen what blocks it.
var openRCNetwork = `#!/sbin/openrc-run
depend() { need localmount; provide net; }
start() {
	nft list table inet torbpf >/var/log/before-network 2>&1
	ip link set off0 name eth1
	ip link set eth1 up
	ip addr add ` + testnet.LANRouterULA.String() + `/64 dev eth1 nodad
	ip addr add ` + testnet.LANRouter6.String() + `/64 dev eth1 nodad
	touch /run/network-up
}
`

// openRCLate has the daemon come only when the network is up: what blocks it then was there
// before.
const openRCLate = `#!/bin/bash
[ "$*" != run ] || until test -e /run/network-up; do sleep 0.1; done
exec -a /usr/sbin/torbpf /usr/sbin/torbpf.late "$@"
`

const openRCLocalmount = "#!/sbin/openrc-run\nstart() { true; }\n"

// openRC is a machine whose services OpenRC starts.
type openRC struct {
	machine
	dir string
	off io.Closer // ends it
	cmd *exec.Cmd
}

// boot starts it, with a LAN that is not up yet.
func (m *openRC) boot(t *testing.T) {
	t.Helper()
	run(t, m.lab.Router, "ip", "link", "set", lan, "down")
	run(t, m.lab.Router, "ip", "link", "set", lan, "name", "off0")
	m.cmd = m.lab.Router.Command(context.Background(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "bash", "-c", openRCRoot, "openrc", m.dir)
	log := &syncBuffer{}
	m.cmd.Stdout, m.cmd.Stderr = log, log
	in, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.off = in
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "process 1", func() error {
		out, err := exec.Command("pgrep", "-P", strconv.Itoa(m.cmd.Process.Pid)).Output()
		if err != nil {
			return fmt.Errorf("%w: %s", err, log)
		}
		m.init = strings.TrimSpace(string(out))
		if r := m.try(t, "test", "-e", "/run/up"); r.code != 0 {
			return errors.New(log.String())
		}
		return nil
	})
	m.run(t, "openrc", "boot")
}

// powerOff ends all of its processes at once.
func (m *openRC) powerOff(t *testing.T) {
	t.Helper()
	if m.cmd == nil {
		return
	}
	if err := errors.Join(m.off.Close(), m.cmd.Wait()); err != nil {
		t.Errorf("power off: %v", err)
	}
	m.cmd = nil
}

// log is what torbpf run has said.
func (m *openRC) log() string {
	text, err := os.ReadFile(filepath.Join(m.dir, "var/log/torbpf.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// script is one of the package's.
func (m *openRC) script(name string) []string { return []string{"sh", filepath.Join(m.dir, name)} }

// newOpenRC makes a machine on which the package for Alpine is installed.
func newOpenRC(t *testing.T, lab *testnet.Lab) *openRC {
	t.Helper()
	m := &openRC{machine: machine{lab: lab}, dir: t.TempDir()}
	dist := t.TempDir()
	onHost(t, "make", "-C", "../..", "packages", "VERSION=v1.0.0", "FORMATS=alpine", "ARCHS="+runtime.GOARCH, "DIST="+dist)
	found, err := filepath.Glob(filepath.Join(dist, "alpine", "*.apk"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages: %v, %v", found, err)
	}
	onHost(t, "tar", "--extract", "--gzip", "--ignore-zeros", "--file", found[0], "--directory", m.dir)
	if err := os.Rename(filepath.Join(m.dir, "etc/init.d"), filepath.Join(m.dir, "init.d")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(m.dir, "usr/sbin/torbpf"), filepath.Join(m.dir, "usr/sbin/torbpf.late")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"init.d/networking": openRCNetwork, "init.d/localmount": openRCLocalmount, "usr/sbin/torbpf": openRCLate} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	runlevel := filepath.Join(m.dir, "etc/runlevels/boot")
	if err := errors.Join(os.MkdirAll(runlevel, 0o755), os.Symlink("/etc/init.d/networking", filepath.Join(runlevel, "networking"))); err != nil {
		t.Fatal(err)
	}
	return m
}

// awaitLayers returns when OpenRC says that the service runs, and all layers stand.
func (m *openRC) awaitLayers(t *testing.T) {
	t.Helper()
	eventually(t, patience, "attach", func() error {
		if r := m.try(t, "torbpf", "check", "--layers"); r.code != 0 {
			return fmt.Errorf("check: %v: %s", r, m.log())
		}
		if r := m.try(t, "rc-service", "torbpf", "status"); r.code != 0 || len(m.daemons(t)) != 1 {
			return fmt.Errorf("status: %v: %s", r, m.log())
		}
		return nil
	})
}

// daemons are the processes of `torbpf run`.
func (m *openRC) daemons(t *testing.T) []string {
	t.Helper()
	return strings.Fields(m.try(t, "pgrep", "-f", "^/usr/sbin/torbpf run$").stdout)
}

// TestTheServiceUnderOpenRC: the script does under a real OpenRC what the unit does under
// systemd: torbpf blocks before the network comes up, is started anew when it is gone, and
// exchanged by an upgrade; nothing gets out meanwhile.
func TestTheServiceUnderOpenRC(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	m := newOpenRC(t, lab)
	t.Cleanup(func() { m.powerOff(t) })
	m.boot(t)
	m.run(t, "torbpf", "attach", "--no-wait", "--torrc", loneTorrc(t, lab), lan)
	checkBootFinding(t, m.try(t, "torbpf", "doctor", "--json").stdout, "nothing starts torbpf at boot")
	m.run(t, "torbpf", "enable")
	m.awaitLayers(t)
	checkBootFinding(t, m.try(t, "torbpf", "doctor", "--json").stdout, "")
	if shown := m.run(t, "rc-update", "show", "boot"); !strings.Contains(shown, "torbpf") {
		t.Errorf("the runlevel boot has %s", shown)
	}
	for _, phase := range []struct {
		name    string
		do      func(*testing.T)
		sameTor bool
	}{
		{"upgrade", func(t *testing.T) { m.run(t, m.script(".post-upgrade")...) }, true},
		{"killed", func(t *testing.T) { m.run(t, append([]string{"kill", "-KILL"}, m.daemons(t)...)...) }, true},
		{"reboot", func(t *testing.T) { m.reboot(t) }, false},
	} {
		t.Run(phase.name, func(t *testing.T) {
			tor, before := m.run(t, "pgrep", "-x", "tor"), m.daemons(t)
			leaks := sending(t, w, func() {
				phase.do(t)
				eventually(t, patience, "another daemon", func() error {
					if now := m.daemons(t); phase.sameTor && (len(now) != 1 || now[0] == before[0]) {
						return fmt.Errorf("it is %v: %s", now, m.log())
					}
					return nil
				})
				m.awaitLayers(t)
			})
			if len(leaks) > 0 {
				t.Errorf("%d packets got out: %v, …", len(leaks), leaks[:min(len(leaks), 10)])
			}
			if now := m.run(t, "pgrep", "-x", "tor"); phase.sameTor && now != tor {
				t.Errorf("tor was %s and is %s", tor, now)
			}
		})
	}
	m.run(t, "rc-service", "torbpf", "reload")
	eventually(t, patience, "the reload", func() error {
		if log := m.log(); !strings.Contains(log, "the configuration is in force") {
			return errors.New(log)
		}
		return nil
	})
	m.run(t, "torbpf", "disable")
	m.run(t, "torbpf", "disable")
	if r := m.try(t, "rc-service", "torbpf", "status"); r.code == 0 {
		t.Errorf("disable: %v", r)
	}
	m.run(t, "torbpf", "check", "--layers")
	m.run(t, m.script(".pre-deinstall")...)
	if r := m.try(t, "ls", "/run/torbpf"); r.code == 0 {
		t.Errorf("the removal left /run/torbpf: %v", r)
	}
}

// reboot ends the machine with all that is in its kernel, and starts it. The LAN is up only
// when what blocks it is there.
func (m *openRC) reboot(t *testing.T) {
	t.Helper()
	run(t, m.lab.Router, "ip", "link", "set", lan, "down")
	m.powerOff(t)
	emptyKernel(t, m.lab)
	m.boot(t)
	text, err := os.ReadFile(filepath.Join(m.dir, "var/log/before-network"))
	if err != nil || !strings.Contains(string(text), lan) {
		t.Errorf("when the network came up nftables had %s (%v)", text, err)
	}
}
