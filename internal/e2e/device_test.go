package e2e

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/testnet"
)

// listedDevice is a device as `device list --json` has it.
type listedDevice struct {
	Name, MAC, Policy, Comment string
	Addresses                  []netip.Addr
	Until                      string
	Silent                     *time.Duration `json:"silent_ns"`
	Traffic                    map[string]struct{ Packets, Bytes uint64 }
}

func listedDevices(t *testing.T, lab *testnet.Lab) map[string]listedDevice {
	t.Helper()
	var listed struct{ Devices []listedDevice }
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "device", "list", "--json").stdout), &listed); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]listedDevice)
	for _, d := range listed.Devices {
		out[d.MAC] = d
	}
	return out
}

// TestDevices: who is there, by whatever name, what each is under and what it has sent.
func TestDevices(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "[devices]\nlaptop = \""+testnet.MACClient1+"\"\n")
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	n := lab.Client1
	for range 3 {
		checkNoEcho(t, n, testnet.Web4)
	}
	d := listedDevices(t, lab)[testnet.MACClient1]
	if d.Name != "laptop" || d.Policy != "tor" || !slices.Contains(d.Addresses, n.IPv4) || d.Traffic["refused"].Packets < 3 || d.Traffic["direct"].Packets != 0 {
		t.Errorf("client1 is listed as %+v", d)
	}
	if d.Silent == nil || *d.Silent > patience {
		t.Errorf("client1 has just sent something, and is listed as %+v", d)
	}
}

// TestSilentDevices: neighbours are listed before they have sent anything, and what is not
// known of a device is not made up.
func TestSilentDevices(t *testing.T) {
	const neighbour, absent = "02:00:5e:10:00:07", "02:00:5e:10:00:08"
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "[devices]\nvisitor = \""+absent+"\"\n")
	detachLater(t, lab)
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	run(t, lab.Router, "ip", "neigh", "add", "192.168.50.77", "lladdr", neighbour, "dev", lan, "nud", "stale")
	run(t, lab.Router, "ip", "neigh", "add", "62.10.0.77", "lladdr", "02:00:5e:10:00:09", "dev", wan, "nud", "stale")
	devices := listedDevices(t, lab)
	if d, ok := devices[neighbour]; !ok || d.Policy != "tor" || d.Silent != nil || len(d.Addresses) != 1 {
		t.Errorf("a neighbour is listed as %+v", d)
	}
	if d, ok := devices[absent]; !ok || d.Policy != "tor" || d.Silent != nil {
		t.Errorf("one that has a name alone is listed as %+v", d)
	}
	if d, ok := devices["02:00:5e:10:00:09"]; ok {
		t.Errorf("a neighbour on the WAN is listed as %+v", d)
	}
	for mac := range devices {
		if strings.HasPrefix(mac, "33:33:") || strings.HasPrefix(mac, "01:00:5e:") || mac == "ff:ff:ff:ff:ff:ff" {
			t.Errorf("%s, which is nobody's, is listed", mac)
		}
	}
	mustTorbpf(t, lab, "exclude", "add", "--source", "192.168.50.0/24")
	devices = listedDevices(t, lab)
	if devices[neighbour].Policy != "direct" || devices[absent].Policy != "unknown" {
		t.Errorf("with the LAN direct a neighbour is %s, and who is not there %s", devices[neighbour].Policy, devices[absent].Policy)
	}
	if out := mustTorbpf(t, lab, "device", "list").stdout; !strings.Contains(out, "never") || !strings.Contains(out, neighbour+"  ") {
		t.Errorf("listed as\n%s", out)
	}
	t.Setenv("COLUMNS", "200")
	if out := mustTorbpf(t, lab, "device", "list").stdout; !strings.Contains(out, "never sent") {
		t.Errorf("listed as\n%s", out)
	}
}

// TestDevicesThatNobodyKnowsAreTold, and addresses that no device can have refused.
func TestDevicesThatNobodyKnowsAreTold(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, c := range []struct {
		who, says string
		code      int
	}{
		{"192.168.50.99", "no device has 192.168.50.99 now: torbpf device list shows who is there", 0},
		{"02:00:00:00:00:77", "no device has 02:00:00:00:00:77 now", 0},
		{"8.8.8.8", "8.8.8.8/32 is behind no LAN, so no device has it", 2},
		{testnet.LANRouter4.String(), "is the router's own, and no device's", 2},
	} {
		r := runTorbpf(t, lab, "device", "allow", c.who, "--for", "10m")
		if r.code != c.code || !strings.Contains(r.stderr, c.says) {
			t.Errorf("allow %s: %v, want exit code %d and %q", c.who, r, c.code, c.says)
		}
	}
	checkNoEcho(t, lab.Client1, testnet.Web4) // the neighbours know it from now on
	if r := mustTorbpf(t, lab, "device", "allow", testnet.MACClient1, "--for", "10m"); strings.Contains(r.stderr, "no device has") {
		t.Errorf("allow of a neighbour: %v", r)
	}
}

// TestDevicePolicies by name, hardware address and address.
func TestDevicePolicies(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := configFile(t, lab, "")
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	n := lab.Client1
	mustTorbpf(t, lab, "device", "name", testnet.MACClient1, "kitchen-tv", "--save", "--config", path)
	if r := mustTorbpf(t, lab, "device", "allow", "kitchen-tv", "--for", "10m", "--comment", "portal"); !strings.Contains(r.stdout, "added device "+testnet.MACClient1+" until ") {
		t.Errorf("allow: %v", r)
	}
	checkDirect(t, n, testnet.Web4)
	checkEcho(t, n, testnet.Web4, testnet.Web6)
	if d := listedDevices(t, lab)[testnet.MACClient1]; d.Name != "kitchen-tv" || d.Policy != "direct" || d.Until == "" || d.Comment != "portal" || d.Traffic["direct"].Bytes == 0 {
		t.Errorf("listed as %+v", d)
	}
	if out := mustTorbpf(t, lab, "device", "list").stdout; !strings.Contains(out, "kitchen-tv") || !strings.Contains(out, "direct 9m") {
		t.Errorf("listed as\n%s", out)
	}
	mustTorbpf(t, lab, "device", "block", n.IPv4.String()) // whose, the neighbours tell
	checkNoEcho(t, n, testnet.Web4)
	mustTorbpf(t, lab, "device", "tor", testnet.MACClient1)
	if got := mustTorbpf(t, lab, "exclude", "list").stdout; got != "nothing is excluded\n" {
		t.Errorf("after device tor: %s", got)
	}
	if r := mustTorbpf(t, lab, "device", "tor", "kitchen-tv"); r.stdout != "device "+testnet.MACClient1+" is Tor's already\n" {
		t.Errorf("tor of a device that is Tor's: %v", r)
	}
	mustTorbpf(t, lab, "exclude", "add", "--source", "192.168.50.0/24")
	for _, verbs := range []string{"tor", "tor", "block tor", "allow tor tor"} { // whatever was before, and again
		for verb := range strings.FieldsSeq(verbs) {
			mustTorbpf(t, lab, "device", verb, "kitchen-tv")
		}
		if got, want := ruleLines(t, lab), "source 192.168.50.0/24 direct; device "+testnet.MACClient1+" tor"; got != want {
			t.Errorf("after %s: %s, want %s", verbs, got, want)
		}
		checkNoEcho(t, n, testnet.Web4)
		checkEcho(t, lab.Client2, testnet.Web4)
	}
	if r := runTorbpf(t, lab, "device", "tor", lab.Client2.IPv4.String(), "freezer"); r.code != 2 {
		t.Errorf("tor of one that is there and one that is not: %v", r)
	}
	checkEcho(t, lab.Client2, testnet.Web4) // all of them or none

	for _, c := range []struct {
		args string
		says string
	}{
		{"allow", "which?"}, {"allow freezer", "no device has this name"}, {"allow 02:00", "hardware address"},
		{"name " + testnet.MACClient2 + " a:b", "no name for a device"}, {"name 192.168.50.99 x", "no neighbour has the address"},
		{"block kitchen-tv --for 0s", "over before it begins"}, {"", "list, allow, block, tor or name?"},
	} {
		if r := runTorbpf(t, lab, append([]string{"device"}, strings.Fields(c.args)...)...); r.code != 2 || !strings.Contains(r.stderr, c.says) {
			t.Errorf("device %s: %v, want exit code 2 and %q", c.args, r, c.says)
		}
	}
	mustTorbpf(t, lab, "device", "name", testnet.MACClient2, "tablet")
	if r := mustTorbpf(t, lab, "apply", "--no-wait", "--config", path); !strings.Contains(r.stdout, "kept, since a command has added it: the name tablet for "+testnet.MACClient2) {
		t.Errorf("apply after a name that is not saved: %v", r)
	}
	if d := listedDevices(t, lab)[testnet.MACClient2]; d.Name != "tablet" {
		t.Errorf("after apply client2 is listed as %+v", d)
	}
	cfg, err := config.Load(path)
	if err != nil || cfg.Devices["kitchen-tv"].String() != testnet.MACClient1 {
		t.Errorf("the name was not saved in %s: %v, %v", filepath.Dir(path), cfg.Devices, err)
	}
}
