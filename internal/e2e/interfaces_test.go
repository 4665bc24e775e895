package e2e

import (
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// TestInterfacesComeAndGo: attaching again changes nothing for the devices, a
// second interface joins the first, and each leaves alone.
func TestInterfacesComeAndGo(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, lan)
	tor := torPID(t, lab)
	checkDirect(t, lab.Client3, testnet.Web4)
	download := startDownload(t, lab.Client1, bytesPage(testnet.Web4, mediumDownload))

	for range 2 {
		begin := time.Now()
		mustTorbpf(t, lab, attachArgs(lab, lan)...)
		t.Logf("attaching again took %v", time.Since(begin).Round(time.Millisecond))
	}
	serveFlows(t, lab, testnet.Web6)
	old := openFlow(t, lab.Client3, "tcp", at(testnet.Web6, portFlows))
	mustTorbpf(t, lab, attachArgs(lab, lan2)...)
	if err := old.ends(); err != nil {
		t.Errorf("a connection of the second interface: %v", err)
	}
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2, lab.Client3} {
		checkByTor(t, lab, n, testnet.Web4)
		checkByTor(t, lab, n, testnet.Web6)
		checkNoEcho(t, n, testnet.Web4)
		if err := lookup(n, n.Resolver, n.Name+"."+testnet.Zone, "A", "udp", testnet.Web4.String()); err != nil {
			t.Error(err)
		}
	}
	if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, lan) || !strings.Contains(r.stdout, lan2) {
		t.Errorf("status: %v", r)
	}
	if got := torPID(t, lab); got != tor {
		t.Errorf("tor was started anew: pid %d, was %d", got, tor)
	}
	if size, err := io.Copy(io.Discard, download); err != nil || size != mediumDownload-begun {
		t.Errorf("a download ended after %d bytes: %v", begun+size, err)
	}
	checkOneDetached(t, lab)
	if r := mustTorbpf(t, lab, "detach", lan2); strings.Contains(r.stdout, "still on Tor") {
		t.Errorf("detach of the last: %v", r)
	}
	checkDirect(t, lab.Client3, testnet.Web4)
	if r := runTorbpf(t, lab, "status"); r.code != 3 {
		t.Errorf("status after the last was detached: %v", r)
	}
}

// checkOneDetached detaches the first of two interfaces.
func checkOneDetached(t *testing.T, lab *testnet.Lab) {
	download := startDownload(t, lab.Client3, bytesPage(testnet.Web4, mediumDownload))
	if r := runTorbpf(t, lab, "detach", lan, "eth7"); r.code != 3 || !strings.Contains(r.stderr, "not attached to eth7") {
		t.Errorf("detach of one that is not attached: %v", r)
	}
	if r := mustTorbpf(t, lab, "detach", lan); !strings.Contains(r.stdout, "still on Tor: "+lan2) {
		t.Errorf("detach of one: %v", r)
	}
	checkDirect(t, lab.Client1, testnet.Web4)
	checkDirect(t, lab.Client1, testnet.Web6)
	checkEcho(t, lab.Client2, testnet.Web4, testnet.Web6)
	checkByTor(t, lab, lab.Client3, testnet.Web6)
	checkNoEcho(t, lab.Client3, testnet.Web4)
	if size, err := io.Copy(io.Discard, download); err != nil || size != mediumDownload-begun {
		t.Errorf("a download of the other interface ended after %d bytes: %v", begun+size, err)
	}
}

// TestBothWaysIntoANamespace: `ip netns exec` has a mount namespace of its own,
// with another /sys, and nsenter does not. What one attaches the other knows.
func TestBothWaysIntoANamespace(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	ipNetns := func(args ...string) result {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return runCommand(t, exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", lab.Router.NetNS, program}, args...)...))
	}
	nsenter := func(args ...string) result { return runTorbpf(t, lab, args...) }
	line := attachArgs(lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	detachLater(t, lab)
	for _, way := range []struct {
		name       string
		one, other func(...string) result
	}{{"ip netns exec, then nsenter", ipNetns, nsenter}, {"nsenter, then ip netns exec", nsenter, ipNetns}} {
		for _, step := range []struct {
			by   func(...string) result
			args []string
			want string
		}{
			{way.one, line, "attached to eth1"},
			{way.other, []string{"status"}, "LAN          eth1           tcx"},
			{way.other, []string{"exclude", "add", other4}, "added destination " + other4},
			{way.one, []string{"exclude", "list"}, other4},
			{way.other, line, "attached to eth1"},
			{way.one, []string{"status"}, "uplink       eth0           guarded: tcx"},
			{way.other, []string{"detach", "--all"}, "detached"},
		} {
			if r := step.by(step.args...); r.code != 0 || !strings.Contains(r.stdout, step.want) {
				t.Errorf("%s: %v: %v, want %q", way.name, step.args, r, step.want)
			}
		}
		if left := files(t, stateDir(t, lab), pinDir(t, lab)); left != "" {
			t.Errorf("%s: left:\n%s", way.name, left)
		}
	}
}
