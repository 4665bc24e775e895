package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// hasFlowtable asks nft itself, in a lab's router. A kernel that has the module and not the thing
// fails the test.
func hasFlowtable(t *testing.T, lab *testnet.Lab) bool {
	t.Helper()
	cmd := lab.Router.Command(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(`table inet probe {
		flowtable f { hook ingress priority filter; devices = { lo }; }
		chain forward { type filter hook forward priority 0; flow add @f; }
	}`)
	out, err := cmd.CombinedOutput()
	if err == nil {
		run(t, lab.Router, "nft", "delete", "table", "inet", "probe")
		return true
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	module := "/lib/modules/" + unix.ByteSliceToString(name.Release[:]) + "/kernel/net/netfilter/nft_flow_offload.ko*"
	if found, _ := filepath.Glob(module); len(found) > 0 {
		t.Fatalf("this kernel has the module %s, but nft says %s", found[0], out)
	}
	return false
}

// flowtableLab is a fresh lab whose router has flowtables, and counts what the user's own rules
// see of what is forwarded.
func flowtableLab(t *testing.T) *testnet.Lab {
	t.Helper()
	lab := freshLab(t)
	if !hasFlowtable(t, lab) {
		t.Skip("this kernel has no flowtables (CONFIG_NFT_FLOW_OFFLOAD)")
	}
	detachLater(t, lab)
	userRules(t, lab, "inet", `counter seen {}
	chain forward {
		type filter hook forward priority filter; policy accept;
		counter name seen
		ct state invalid counter drop
	}`)
	return lab
}

const flowtable = `fastpath = "flowtable"`

// runFlowtable is that with a daemon, and lab.Other excluded.
func runFlowtable(t *testing.T) (*testnet.Lab, *runDaemon) {
	t.Helper()
	lab := flowtableLab(t)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`, flowtable,
		"[exclusions]", fmt.Sprintf("destinations = [%q, %q]", other4, other6)))
	eventually(t, patience, "the LAN to be attached", func() error { return sound(t, lab, lan) })
	isFast(t, lab, "")
	return lab, d
}

var counted = regexp.MustCompile(`packets (\d+)`)

// userSeen is how many packets the user's own rules have seen.
func userSeen(t *testing.T, lab *testnet.Lab) int {
	t.Helper()
	n, err := strconv.Atoi(counted.FindStringSubmatch(run(t, lab.Router, "nft", "list", "counter", "inet", "users_own", "seen"))[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// inFlowtable waits until the user's rules see next to nothing of what a flow says.
func inFlowtable(t *testing.T, lab *testnet.Lab, f *flow, fast bool) {
	t.Helper()
	eventually(t, patience, fmt.Sprintf("%s to be in the flowtable: %t", f.name, fast), func() error {
		before := userSeen(t, lab)
		for range 20 {
			if err := f.echo(); err != nil {
				return err
			}
		}
		if seen := userSeen(t, lab) - before; fast != (seen < 20) {
			return fmt.Errorf("of 20 packets there and back the user's rules have seen %d", seen)
		}
		return nil
	})
}

// TestFlowtable: flows that are excluded go by it, with the user's own NAT; torbpf goes on
// counting, and what is Tor's stays so.
func TestFlowtable(t *testing.T) {
	lab, d := runFlowtable(t)
	checkExcludedFlows(t, lab, checkFlowtableFlow)
	if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "on: flows between eth0, eth1") {
		t.Errorf("status: %v", r)
	}
	d.stop(t) // which nothing depends on
	isFast(t, lab, "")
	inFlowtable(t, lab, openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho)), true)
}

// countedDirect is what torbpf has counted of what the LAN's devices send directly.
func countedDirect(t *testing.T, lab *testnet.Lab) (packets uint64) {
	t.Helper()
	_, s := lanStatus(t, lab)
	for _, c := range s.Counters {
		if c.Interface == lan && c.Verdict == "direct" {
			packets += c.Packets
		}
	}
	return packets
}

// checkFlowtableFlow has one flow go by the flowtable, be counted by torbpf, and end.
func checkFlowtableFlow(t *testing.T, lab *testnet.Lab, proto string, server netip.AddrPort) {
	f := openFlow(t, lab.Client1, proto, server)
	inFlowtable(t, lab, f, true)
	before := countedDirect(t, lab)
	for range 20 {
		if err := f.echo(); err != nil {
			t.Fatal(err)
		}
	}
	if now := countedDirect(t, lab); now < before+20 {
		t.Errorf("%s: of 20 packets torbpf has counted %d", f.name, now-before)
	}
	if proto == "udp" {
		return
	}
	exchange(t, f.conn, 8<<20)
	if err := f.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%s does not end: %v", f.name, err)
	}
}

// TestFlowtableEndsWithPolicy: when an exclusion goes, what is in the flowtable stops before the
// command returns, in both directions.
func TestFlowtableEndsWithPolicy(t *testing.T) {
	lab, _ := runFlowtable(t)
	heard := make(chan net.Conn, 1)
	serve(t, lab, at(testnet.Other4, portFast), func(conn net.Conn) {
		heard <- conn
		_, _ = io.Copy(conn, conn)
	})
	udp := openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho))
	tcp := openFlow(t, lab.Client1, "tcp", at(testnet.Other4, portFast))
	for _, f := range []*flow{udp, tcp} {
		inFlowtable(t, lab, f, true)
	}
	stopTalking := talk(t, udp, tcp)
	mustTorbpf(t, lab, "exclude", "del", other4)
	w := captureWAN(t, lab)
	server := <-heard
	if _, err := server.Write([]byte("an answer")); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the server to send in vain", func() error {
		for _, p := range w.Packets() {
			if !p.Inbound && p.Src == at(testnet.Other4, portFast) {
				return nil
			}
		}
		return errors.New("it has sent nothing")
	})
	stopTalking()
	for _, p := range w.Packets() {
		if p.Inbound && p.Dst.Addr() == testnet.Other4 {
			t.Errorf("it goes on: %v", p)
		}
	}
	if err := tcp.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(tcp.conn); bytes.Contains(got, []byte("an answer")) {
		t.Error("an answer has come by the flowtable")
	}
	if _, s := lanStatus(t, lab); s.Stopped > 0 {
		t.Errorf("the last guards have stopped %d packets: the flowtable went too late", s.Stopped)
	}
}

// talk has flows say things until the function that it returns is called.
func talk(t *testing.T, flows ...*flow) (stop func()) {
	t.Helper()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				for _, f := range flows {
					_ = f.send([]byte("something")) // which fails when it is refused
				}
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}

// TestFlowtableIsKept: the daemon puts it back when somebody takes it away or changes it, and takes
// it away while something is in its way.
func TestFlowtableIsKept(t *testing.T) {
	lab, d := runFlowtable(t)
	for _, c := range []struct{ do, says string }{
		{"nft flush chain inet torbpf accelerate", "chain accelerate has 0 rules instead of 3"},
		{"nft flush chain inet torbpf accelerate; delete flowtable inet torbpf direct", "the flowtable is gone"},
		{"nft delete table inet torbpf", "no table inet torbpf"},
	} {
		began := time.Now()
		runLine(t, lab, c.do)
		d.await(t, c.says)
		isFast(t, lab, "")
		eventually(t, patience, "its repair", func() error { return sound(t, lab, lan) })
		t.Logf("%s: repaired within %v", c.do, time.Since(began).Round(time.Millisecond))
	}
	for _, c := range []struct{ do, undo, says string }{
		{"tc qdisc add dev eth1 root htb", "tc qdisc del dev eth1 root", "eth1 has a qdisc htb"},
		{"ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out action block", "ip xfrm policy flush", "IPsec"},
	} {
		runLine(t, lab, c.do)
		isFast(t, lab, c.says)
		d.await(t, c.says)
		runLine(t, lab, c.undo)
		isFast(t, lab, "")
	}
	mustTorbpf(t, lab, "exclude", "add", "203.0.113.0/24", "--for", "1h")
	isFast(t, lab, "an exclusion ends by the clock")
	mustTorbpf(t, lab, "exclude", "del", "203.0.113.0/24")
	isFast(t, lab, "")
}

// TestFlowtableMeetsFaults: without the program at the LAN what is in the flowtable is stopped at
// the uplink, unjudged; without nftables there is none, and what is excluded goes on.
func TestFlowtableMeetsFaults(t *testing.T) {
	lab := flowtableLab(t)
	mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--fastpath", "flowtable", "--exclude", other4)...)
	isFast(t, lab, "")
	f := openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho))
	inFlowtable(t, lab, f, true)
	lanProgramGone.inflict(t, lab)
	w := captureWAN(t, lab)
	if err := f.echo(); err == nil {
		t.Fatal("it goes on without a program that has judged it")
	}
	if r := runTorbpf(t, lab, "check"); !strings.Contains(r.stdout+r.stderr, "last guards stopped: 1 packets") {
		t.Errorf("the guard at the uplink has not stopped it: %v", r)
	}
	if packets := w.Packets(); len(packets) > 0 {
		t.Errorf("on the WAN: %v", packets)
	}
	mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--fastpath", "flowtable", "--exclude", other4)...)
	inFlowtable(t, lab, openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho)), true)
	runLine(t, lab, "nft delete table inet torbpf")
	inFlowtable(t, lab, openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho)), false)
	checkByRouterOnly(t, lab)
}

// TestFlowtableLeavesNothing: attached, switched off again, and detached.
func TestFlowtableLeavesNothing(t *testing.T) {
	lab := flowtableLab(t)
	before := takeSnapshot(t, lab)
	fast := func(mode string) {
		t.Helper()
		mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--fastpath", mode)...)
	}
	fast("flowtable")
	isFast(t, lab, "")
	fast("off")
	if rules := run(t, lab.Router, "nft", "list", "flowtables"); strings.Contains(rules, "direct") {
		t.Errorf("switched off: %s", rules)
	}
	fast("flowtable")
	mustTorbpf(t, lab, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, lab))
}

// TestFlowtableIsMissed where the kernel has none: everything goes the slow way, and status says why.
func TestFlowtableIsMissed(t *testing.T) {
	lab := freshLab(t)
	if hasFlowtable(t, lab) {
		t.Skip("this kernel has flowtables")
	}
	detachLater(t, lab)
	r := mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--fastpath", "flowtable", "--exclude", other4)...)
	if !strings.Contains(r.stderr, "note: no flowtable") {
		t.Errorf("attach: %v", r)
	}
	isFast(t, lab, "CONFIG_NFT_FLOW_OFFLOAD")
	openFlow(t, lab.Client1, "udp", at(testnet.Other4, testnet.PortEcho))
	if r := runTorbpf(t, lab, "check"); !strings.Contains(r.stdout, "all layers stand") {
		t.Errorf("check: %v", r)
	}
}
