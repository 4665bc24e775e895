package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// networkManagerScript runs NetworkManager with a bus, an /etc and a state of its own. Without
// udev it waits for none where /sys cannot be written.
const networkManagerScript = `cp -a /etc "$1/etc"
rm -f "$1/etc/resolv.conf"
sed -i 's/^hosts:.*/hosts: files dns/' "$1/etc/nsswitch.conf"
mount --bind "$1/etc" /etc
mount -t tmpfs tmpfs /run/NetworkManager
mount -t tmpfs tmpfs /var/lib/NetworkManager
mkdir "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs -o ro sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
` + privateBus + `exec NetworkManager --no-daemon --config="$1/NetworkManager.conf" --config-dir="$1/none" --system-config-dir="$1/none" --intern-config="$1/intern.conf" --state-file="$1/state"
`

// networkManagerFiles are its configuration, in which DIR is the folder of them.
var networkManagerFiles = map[string]string{
	"NetworkManager.conf": `[main]
auth-polkit=false
no-auto-default=*
rc-manager=symlink
hostname-mode=none
[keyfile]
path=DIR/connections
unmanaged-devices=*,except:interface-name:` + wan + `
[connectivity]
uri=http://connectivity.` + testnet.Zone + `/bytes?n=0
response=
`,
	"connections/uplink.nmconnection": `[connection]
id=uplink
uuid=5f0a1b0e-7b3c-4c6e-9d0e-2f6d1c8b7a01
type=ethernet
interface-name=` + wan + `
[ipv4]
method=auto
[ipv6]
method=manual
address1=` + testnet.WANRouter6.String() + `/64,` + testnet.WANISP6.String() + `
`,
}

// networkManager is the distribution's, with the router's uplink in its hands.
type networkManager struct {
	*unpackedProgram
	leases *syncBuffer // what the ISP's DHCP server says of them
}

// startNetworkManager takes the uplink's addresses from it, for NetworkManager to get them by
// DHCP. It puts a new uplink in its place when the test ends.
func startNetworkManager(t *testing.T, lab *testnet.Lab) *networkManager {
	t.Helper()
	dir := filepath.Join(lab.Dir(), "nm")
	t.Cleanup(func() {
		if err := errors.Join(lab.ReplaceWAN(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	mountPoint(t, "/run/NetworkManager")
	mountPoint(t, "/var/lib/NetworkManager")
	if err := os.MkdirAll(filepath.Join(dir, "connections"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeBus(t, dir)
	for name, text := range networkManagerFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, lab.Router, "ip", "addr", "flush", "dev", wan)
	run(t, lab.Router, "ip", "link", "set", wan, "down")
	leases := serveLeases(t, lab)
	return &networkManager{startUnpacked(t, lab, networkManagerScript, dir), leases}
}

// mountPoint has a folder be there for the test.
func mountPoint(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
}

// serveLeases has the ISP lease the router its address, to be renewed every few seconds, and
// returns what its server says.
func serveLeases(t *testing.T, lab *testnet.Lab) *syncBuffer {
	t.Helper()
	log := &syncBuffer{}
	cmd := lab.ISP.Command(t.Context(), "dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--port=0", "--interface=wan0",
		"--bind-interfaces", "--user=root", "--pid-file", "--leasefile-ro", "--no-ping", "--dhcp-authoritative",
		fmt.Sprintf("--dhcp-range=%v,%v,255.255.255.0,2m", testnet.WANRouter4, testnet.WANRouter4),
		fmt.Sprintf("--dhcp-option=option:router,%v", testnet.WANISP4), fmt.Sprintf("--dhcp-option=option:dns-server,%v", testnet.Resolver4),
		"--dhcp-option=58,2", "--dhcp-option=59,4") // T1, T2
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq: %s", log)
		}
	})
	return log
}

// online has NetworkManager look anew whether it is on the internet, and checks who then came.
func (m *networkManager) online(t *testing.T, by func(netip.Addr) bool) {
	t.Helper()
	m.lab.Web.Reset()
	eventually(t, torPatience, "the internet, by NetworkManager", func() error {
		if got := m.must(t, "nmcli", "networking", "connectivity", "check"); got != "full" {
			return fmt.Errorf("it says %q", got)
		}
		if got := m.must(t, "nmcli", "-t", "-f", "STATE", "general"); got != "connected" {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	visits := m.lab.Web.Visits()
	if len(visits) == 0 {
		t.Error("nobody has looked")
	}
	for _, v := range visits {
		if !by(v.Source.Addr()) {
			t.Errorf("%v has looked", v.Source)
		}
	}
}

// lookup has a user's program look a name up as /etc/resolv.conf says, and checks who asked.
func (m *networkManager) lookup(t *testing.T, name string, by func(netip.Addr) bool) {
	t.Helper()
	got := m.must(t, "setpriv", "--reuid", strconv.Itoa(someone), "--clear-groups", "getent", "ahostsv4", name+"."+testnet.Zone)
	if addr, _, _ := strings.Cut(got, " "); addr != testnet.Web4.String() {
		t.Errorf("%s is %q", name, got)
	}
	checkAsked(t, m.lab, name, by)
}

// leased waits for a further lease, or that it is renewed.
func (m *networkManager) leased(t *testing.T, what string, act func()) {
	t.Helper()
	leases := func() int { return strings.Count(m.leases.String(), "DHCPACK(") }
	before := leases()
	act()
	eventually(t, patience, what, func() error {
		if leases() == before {
			return errors.New("the server has given none")
		}
		return nil
	})
}

// TestNetworkManagerKeepsTheUplink: in client mode it renews its lease, of all servers since this
// one has a public address, and gets another when it connects anew; its resolv.conf stays, and
// what is asked by it is Tor's; it finds itself on the internet, and looks by Tor.
func TestNetworkManagerKeepsTheUplink(t *testing.T) {
	lab := torLab(t)
	m := startNetworkManager(t, lab)
	eventually(t, patience, "NetworkManager", func() error {
		if r := m.run(t, "nmcli", "-t", "-f", "STATE", "general"); r.stdout != "connected\n" {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	m.online(t, ownAddress)
	m.lookup(t, "before", ownAddress)
	resolvConf := m.must(t, "cat", "/etc/resolv.conf")
	if want := "# Generated by NetworkManager\nnameserver " + testnet.Resolver4.String(); resolvConf != want {
		t.Fatalf("resolv.conf is %q", resolvConf)
	}

	detachLater(t, lab)
	m.must(t, append([]string{program}, attachArgs(lab, "--client")...)...)
	forget(lab)
	capture := captureWAN(t, lab)
	m.online(t, lab.Tor.IsExit)
	m.lookup(t, "attached", lab.Tor.IsExit)
	m.leased(t, "a renewed lease", func() {})
	m.leased(t, "another lease", func() { m.must(t, "nmcli", "connection", "up", "uplink") })
	m.online(t, lab.Tor.IsExit)
	m.lookup(t, "anew", lab.Tor.IsExit)
	checkByTor(t, lab, lab.Router.As(someone), testnet.Web6)
	checkOnlyExitsSaw(t, lab)
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
	for _, p := range capture.NonTor() {
		if told, ok := p.Quoted(); ok { // the kernel, of a socket that has been closed
			p = testnet.Packet{Proto: told.Proto, Src: told.Dst, Dst: told.Src}
		}
		if p.Proto != "udp" || p.Src.Port() != 68 || p.Dst.Port() != 67 {
			t.Errorf("on the WAN: %v", p)
		}
	}
	if now := m.must(t, "cat", "/etc/resolv.conf"); now != resolvConf {
		t.Errorf("resolv.conf is %q", now)
	}

	m.must(t, program, "detach", "--client")
	m.online(t, ownAddress)
	m.lookup(t, "after", ownAddress)
	if now := m.must(t, "cat", "/etc/resolv.conf"); now != resolvConf {
		t.Errorf("after detach resolv.conf is %q", now)
	}
}
