package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// TestKillingTorbpfChangesNothing: once attached, no process of torbpf's is
// needed for anything but DNS by TCP, which is then refused.
func TestKillingTorbpfChangesNothing(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, lan, "--exclude", other4, "--exclude", other6)
	n := lab.Client1
	excluded := openFlow(t, n, "tcp", at(testnet.Other4, testnet.PortEcho))
	datagrams := openFlow(t, n, "udp", at(testnet.Other6, testnet.PortEcho))
	download := startDownload(t, n, bytesPage(testnet.Web4, mediumDownload))
	kill(t, unix.SIGKILL, pidsNamed(t, lab, "torbpf-sentry")...)
	eventually(t, patience, "the end of the sentry", func() error {
		if left := pidsNamed(t, lab, "torbpf-sentry"); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	capture := captureWAN(t, lab)
	checkByTor(t, lab, n, testnet.Web4)
	checkByTor(t, lab, n, testnet.Web6)
	for _, q := range []struct{ name, qtype, want string }{
		{"after." + testnet.Zone, "A", testnet.Web4.String()},
		{"after." + testnet.Zone, "AAAA", testnet.Web6.String()},
		{reverse(testnet.Web4), "PTR", "web." + testnet.Zone + "."},
	} {
		if err := lookup(n, n.Resolver, q.name, q.qtype, "udp", q.want); err != nil {
			t.Error(err)
		}
	}
	for _, server := range []string{"192.168.50.1:53", "9.9.9.9:53", "[2a0d:50::1]:53"} {
		if err := refusedAtOnce(n, addrPort(server)); err != nil {
			t.Error(err)
		}
	}
	checkNoEcho(t, n, testnet.Web4, testnet.Web6)
	if size, err := io.Copy(io.Discard, download); err != nil || size != mediumDownload-begun {
		t.Errorf("the download under way ended after %d bytes: %v", begun+size, err)
	}
	for _, f := range []*flow{excluded, datagrams} {
		if err := f.echo(); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	sendStrays(t, n)
	checkOnlyExcluded(t, capture)
	if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "the sentry is gone") {
		t.Errorf("status: %v", r)
	}

	mustTorbpf(t, lab, attachArgs(lab, lan)...)
	if err := lookup(n, n.Resolver, "again."+testnet.Zone, "A", "tcp", testnet.Web4.String()); err != nil {
		t.Errorf("after attach: %v", err)
	}
}

// mediumDownload takes Tor a while, and no longer than a test may take.
const mediumDownload = 8 << 20

// checkOnlyExcluded is checkNoLeaks where lab.Other is excluded.
func checkOnlyExcluded(t testing.TB, capture *testnet.Capture) {
	t.Helper()
	for _, p := range stopped(t, capture) {
		if dst := p.Dst.Addr(); dst != testnet.Other4 && dst != testnet.Other6 {
			t.Errorf("on the WAN: %v", p)
		}
	}
}

// pidsNamed are the processes of that name in the router.
func pidsNamed(t testing.TB, lab *testnet.Lab, name string) []int {
	t.Helper()
	var out []int
	for _, field := range strings.Fields(run(t, lab.Router, "ip", "netns", "pids", lab.Router.NetNS)) {
		comm, err := os.ReadFile(filepath.Join("/proc", field, "comm"))
		var pid int
		if _, scanErr := fmt.Sscan(field, &pid); scanErr != nil {
			t.Fatal(scanErr)
		}
		if err == nil && strings.TrimSpace(string(comm)) == name {
			out = append(out, pid)
		}
	}
	return out
}

func kill(t testing.TB, signal unix.Signal, pids ...int) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("no process to kill")
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, signal); err != nil {
			t.Fatalf("kill %d: %v", pid, err)
		}
	}
}

// torPID is the managed tor's, or the first one's, as torbpf has written it down.
func torPID(t testing.TB, lab *testnet.Lab) int {
	t.Helper()
	return torPIDIn(t, lab, "tor")
}

// torPIDIn is torPID of the tor whose folder is called so.
func torPIDIn(t testing.TB, lab *testnet.Lab, folder string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(stateDir(t, lab), folder, "process.json"))
	if err != nil {
		t.Fatal(err)
	}
	var record struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(text, &record); err != nil || record.PID == 0 {
		t.Fatalf("read tor's process from %s: %v", text, err)
	}
	return record.PID
}

// TestTorGone: while tor is dead or hangs, devices are refused at once, and
// nothing of theirs leaves; with tor everything comes back.
func TestTorGone(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, lan)
	n := lab.Client1
	checkByTor(t, lab, n, testnet.Web4)

	t.Run("dead", func(t *testing.T) {
		pid := torPID(t, lab)
		kill(t, unix.SIGKILL, pid)
		begin := time.Now()
		capture := captureWAN(t, lab)
		eventually(t, 3*time.Second, "refusal by tc", func() error { return refusedWithoutTor(n) })
		t.Logf("refused %v after tor's death", time.Since(begin).Round(time.Millisecond))
		if r := runTorbpf(t, lab, "status"); r.code != 0 || !strings.Contains(r.stdout, "tor does not answer: clients are refused") {
			t.Errorf("status: %v", r)
		}
		sendStrays(t, n)
		checkNoLeaks(t, capture)
		mustTorbpf(t, lab, attachArgs(lab, lan)...)
		if torPID(t, lab) == pid {
			t.Error("attach did not start another tor")
		}
		checkByTor(t, lab, n, testnet.Web4)
	})
	t.Run("hung", func(t *testing.T) {
		pid := torPID(t, lab)
		kill(t, unix.SIGSTOP, pid)
		defer func() { _ = unix.Kill(pid, unix.SIGCONT) }() // the test may end in between
		begin := time.Now()
		capture := captureWAN(t, lab)
		eventually(t, 8*time.Second, "refusal by tc", func() error { return refusedWithoutTor(n) })
		t.Logf("refused %v after tor was stopped", time.Since(begin).Round(time.Millisecond))
		sendStrays(t, n)
		checkNoLeaks(t, capture)
		kill(t, unix.SIGCONT, pid)
		begin = time.Now()
		eventually(t, patience, "a page by the tor that goes on", func() error { return byTor(lab, n, testnet.Web4) })
		t.Logf("back %v after tor went on", time.Since(begin).Round(time.Millisecond))
		if err := lookup(n, n.Resolver, "back."+testnet.Zone, "A", "udp", testnet.Web4.String()); err != nil {
			t.Error(err)
		}
	})
}

// refusedWithoutTor wants TCP reset and DNS answered with SERVFAIL, at once, in
// both families.
func refusedWithoutTor(n *testnet.Node) error {
	errs := []error{
		refusedAtOnce(n, at(testnet.Web4, testnet.PortHTTP)), refusedAtOnce(n, at(testnet.Web6, testnet.PortHTTPS)),
		refusedAtOnce(n, n.Resolver),
	}
	for _, server := range []string{"192.168.50.1:53", "9.9.9.9:53", "[2a0d:50::1]:53", "[2620:fe::fe]:53"} {
		reply, err := testnet.DNSQuery(n, addrPort(server), "gone."+testnet.Zone, "A", "udp", hush)
		if err == nil && reply.Rcode != dns.RcodeServerFailure {
			err = fmt.Errorf("%s answered %s", server, dns.RcodeToString[reply.Rcode])
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
