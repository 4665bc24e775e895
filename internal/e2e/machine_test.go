package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// machine is a system of its own, with systemd as its first process, in the network
// namespace of the lab's router.
type machine struct {
	lab    *testnet.Lab
	root   string
	nspawn *exec.Cmd
	init   string // the process id of its first process
}

// dhcpcd brings the LAN up as Debian's does, which does not wait for network-pre.target.
var dhcpcd = `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip link set off0 name eth1
ExecStart=/sbin/ip link set eth1 up
ExecStart=/sbin/ip addr add ` + testnet.LANRouterULA.String() + `/64 dev eth1 nodad
ExecStart=/sbin/ip addr add ` + testnet.LANRouter6.String() + `/64 dev eth1 nodad
[Install]
WantedBy=multi-user.target
`

// impatient has the unit start late, and a daemon that hangs found soon.
const impatient = `[Service]
ExecStartPre=/bin/sleep 2
WatchdogSec=10
`

// distribution is what machines begin with: it is installed once.
var distribution struct {
	once sync.Once
	root string
}

// installDistribution returns the root of a fresh installation of this host's distribution.
func installDistribution(t *testing.T) string {
	t.Helper()
	distribution.once.Do(func() {
		root := filepath.Join(filepath.Dir(program), "distribution")
		installInto(t, root)
		distribution.root = root
	})
	if distribution.root == "" {
		t.Fatal("the distribution could not be installed, see the test before")
	}
	return distribution.root
}

func installInto(t *testing.T, root string) {
	t.Helper()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	suite := regexp.MustCompile(`(?m)^VERSION_CODENAME=(.*)$`).FindSubmatch(release)
	if suite == nil {
		t.Fatal("/etc/os-release names no suite to install")
	}
	components := "main"
	if regexp.MustCompile(`(?m)^ID=ubuntu$`).Match(release) {
		components = "main,universe" // tor is in the latter
	}
	onHost(t, "mmdebstrap", "--quiet", "--variant=minbase", "--components="+components, "--include=systemd-sysv,dbus,tor,nftables,iproute2,procps", string(suite[1]), root)
}

// newMachine makes a machine with this distribution, on which torbpf is not installed yet.
func newMachine(t *testing.T, lab *testnet.Lab) *machine {
	t.Helper()
	m := &machine{lab: lab, root: filepath.Join(t.TempDir(), "root")}
	onHost(t, "cp", "--archive", "--reflink=auto", installDistribution(t), m.root)
	torrc, err := os.ReadFile(loneTorrc(t, lab))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"torbpf/lone.torrc":                          string(torrc),
		"systemd/system/dhcpcd.service":              dhcpcd,
		"systemd/system/torbpf.service.d/tests.conf": impatient,
	} {
		path := filepath.Join(m.root, "etc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The distribution's tor is none of the test's.
	onHost(t, "systemctl", "--root="+m.root, "mask", "tor.service")
	onHost(t, "systemctl", "--root="+m.root, "enable", "dhcpcd.service")
	return m
}

func onHost(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// boot starts the machine, with a LAN that is not up yet, and returns when it has come up.
func (m *machine) boot(t *testing.T) {
	t.Helper()
	run(t, m.lab.Router, "ip", "link", "set", lan, "down")
	run(t, m.lab.Router, "ip", "link", "set", lan, "name", "off0")
	m.nspawn = exec.Command("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--machine=router",
		"--capability=all", "--private-users=no", "--directory="+m.root, "--network-namespace-path="+m.lab.Router.Path)
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_SECCOMP=0", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")
	if err := m.nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the boot", func() error {
		out, err := exec.Command("pgrep", "-P", strconv.Itoa(m.nspawn.Process.Pid)).Output()
		if err != nil {
			return err
		}
		m.init = strings.TrimSpace(string(out))
		if r := m.try(t, "systemctl", "is-active", "multi-user.target"); r.code != 0 {
			return fmt.Errorf("multi-user.target: %v", r)
		}
		return nil
	})
}

// powerOff ends the machine, if it is on. The LAN stays as it is.
func (m *machine) powerOff(t *testing.T) {
	t.Helper()
	if m.nspawn == nil {
		return
	}
	m.try(t, "systemctl", "poweroff")
	late := time.AfterFunc(time.Minute, func() { _ = m.nspawn.Process.Kill() })
	defer late.Stop()
	if err := m.nspawn.Wait(); err != nil {
		t.Errorf("power off: %v", err)
	}
	m.nspawn = nil
}

// try runs a program in the machine.
func (m *machine) try(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", m.init, "-m", "-n", "-p", "-u", "-i", "-C", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return runCommand(t, cmd)
}

// run is try for what must succeed; it returns the output.
func (m *machine) run(t *testing.T, args ...string) string {
	t.Helper()
	r := m.try(t, args...)
	if r.code != 0 {
		t.Fatalf("%v: %v", args, r)
	}
	return strings.TrimSpace(r.stdout)
}

// show returns a property of a unit.
func (m *machine) show(t *testing.T, property, unit string) string {
	t.Helper()
	return m.run(t, "systemctl", "show", "--value", "-p", property, unit)
}

// awaitTor returns when the unit runs and all layers stand; restarts is how often systemd
// has started it anew.
func (m *machine) awaitTor(t *testing.T, restarts string) {
	t.Helper()
	eventually(t, time.Minute, "attach", func() error {
		if r := m.try(t, "torbpf", "check", "--layers"); r.code != 0 {
			return fmt.Errorf("check: %v", r)
		}
		shown := m.run(t, "systemctl", "show", "-p", "ActiveState,StatusText,NRestarts", "torbpf")
		for _, want := range []string{"ActiveState=active", "StatusText=on Tor: " + lan, "NRestarts=" + restarts} {
			if !slices.Contains(strings.Split(shown, "\n"), want) {
				return fmt.Errorf("systemd shows no %s: %s", want, shown)
			}
		}
		return nil
	})
}

// signal sends a signal to the daemon.
func (m *machine) signal(t *testing.T, name string) {
	t.Helper()
	pid := m.show(t, "MainPID", "torbpf")
	if pid == "0" { // which is whoever asks
		t.Fatal("there is no daemon")
	}
	m.run(t, "kill", "-"+name, pid)
}
