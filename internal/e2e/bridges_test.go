package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// startBridge returns the line of the lab's bridge.
func startBridge(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), torPatience)
	defer cancel()
	line, err := lab.StartBridge(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// bridgesNow is what `torbpf tor bridges` says.
func bridgesNow(t testing.TB, lab *testnet.Lab) router.BridgeReport {
	t.Helper()
	var report router.BridgeReport
	out := mustTorbpf(t, lab, "tor", "bridges", "--json").stdout
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return report
}

// checkOnlyTheBridge wants all that the router has sent on the WAN to be for the bridge.
func checkOnlyTheBridge(t testing.TB, capture *testnet.Capture) {
	t.Helper()
	var to = make(map[netip.AddrPort]int)
	for _, p := range capture.Packets() {
		if p.Inbound && p.Proto == "tcp" {
			to[p.Dst]++
		}
	}
	if len(to) != 1 || to[testnet.BridgeAddr] == 0 {
		t.Errorf("by the WAN went %v, want packets for the bridge %v alone", to, testnet.BridgeAddr)
	}
	checkNoLeaks(t, capture)
}

// TestTorEntersByABridge, and by nothing else: its transport's process reaches the bridge, and no
// relay hears of the router itself.
func TestTorEntersByABridge(t *testing.T) {
	lab := torLab(t)
	line := startBridge(t, lab)
	capture := captureWAN(t, lab)
	attach(t, lab, lan, "--bridge", line)
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		checkByTor(t, lab, n, testnet.Web4)
		checkByTor(t, lab, n, testnet.Web6)
	}
	checkOnlyTheBridge(t, capture)
	report := bridgesNow(t, lab)
	if !report.Enabled || len(report.Bridges) != 1 || !report.Bridges[0].Connected || report.Bridges[0].Address != testnet.BridgeAddr.String() {
		t.Errorf("of bridges it says %+v", report)
	}
	if len(report.Transports) != 1 || !report.Transports[0].Found || report.Transports[0].Name != "obfs4" {
		t.Errorf("of transports it says %+v", report.Transports)
	}
	if out := mustTorbpf(t, lab, "tor", "status").stdout; !strings.Contains(out, testnet.BridgeAddr.String()+" by obfs4 (connected)") {
		t.Errorf("tor status: %s", out)
	}
	if out := mustTorbpf(t, lab, "tor", "bridges").stdout; !strings.Contains(out, "connected") || strings.Contains(out, "cert=") {
		t.Errorf("tor bridges: %s", out)
	}

	// Attaching again keeps it, and without bridges tor chooses its guards.
	mustTorbpf(t, lab, attachArgs(lab, lan)...)
	if report := bridgesNow(t, lab); !report.Enabled {
		t.Errorf("attached again it says %+v", report)
	}
	mustTorbpf(t, lab, attachArgs(lab, lan, "--bridge", "")...)
	if report := bridgesNow(t, lab); report.Enabled || len(report.Bridges) > 0 {
		t.Errorf("without bridges it says %+v", report)
	}
	checkByTor(t, lab, lab.Client1, testnet.Web4)
}

// transportAt is where a transport's program takes what tor wants carried.
func transportAt(t *testing.T, lab *testnet.Lab, program string) netip.AddrPort {
	t.Helper()
	var at netip.AddrPort
	eventually(t, patience, program+" to listen", func() error {
		for line := range strings.Lines(run(t, lab.Router, "ss", "-Hltnp")) {
			if fields := strings.Fields(line); strings.Contains(line, program) {
				at = netip.MustParseAddrPort(fields[3])
				return nil
			}
		}
		return errors.New("it does not")
	})
	return at
}

// connectScript has a shell connect to a port.
func connectScript(to netip.AddrPort) []string {
	return []string{"bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%v/%d", to.Addr(), to.Port())}
}

// checkTransportIsTors wants whoever is not tor to be refused by name of this machine's addresses.
func checkTransportIsTors(t *testing.T, lab *testnet.Lab, program string) {
	t.Helper()
	transport := transportAt(t, lab, program)
	for _, user := range []int{0, someone, 65534} {
		for _, addr := range []netip.Addr{transport.Addr(), netip.IPv4Unspecified(), netip.MustParseAddr("::ffff:127.0.0.1")} {
			line := connectScript(at(addr, transport.Port()))
			out, err := lab.Router.As(user).Command(t.Context(), line[0], line[1:]...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "Operation not permitted") {
				t.Errorf("user %d at %v: %v: %s", user, addr, err, out)
			}
		}
	}
}

// TestNobodyElseUsesATransport which is older than client mode, and than what exec runs: it would
// take them anywhere in clear.
func TestNobodyElseUsesATransport(t *testing.T) {
	lab := torLab(t)
	line := startBridge(t, lab)
	attach(t, lab, lan, "--bridge", line)
	connect := connectScript(transportAt(t, lab, "obfs4proxy"))
	run(t, lab.Router, connect[0], connect[1:]...) // direct as it is, it may
	for _, user := range []string{"root", "nobody"} {
		r := runTorbpf(t, lab, append([]string{"exec", "--tor", "--user", user, "--"}, connect...)...)
		if r.code == 0 || !strings.Contains(r.stderr, "Operation not permitted") {
			t.Errorf("exec --tor as %s: %v", user, r)
		}
	}
	run(t, lab.Router, connect[0], connect[1:]...)
	mustTorbpf(t, lab, attachArgs(lab, lan, "--client")...)
	checkTransportIsTors(t, lab, "obfs4proxy")
	checkByTor(t, lab, lab.Router, testnet.Web4)
	checkByTor(t, lab, lab.Client1, testnet.Web4)
}

// TestThisMachineEntersByABridge: in client mode what tor's transport sends is told from what
// anybody else does.
func TestThisMachineEntersByABridge(t *testing.T) {
	lab := torLab(t)
	line := startBridge(t, lab)
	capture := captureWAN(t, lab)
	attach(t, lab, "--client", "--bridge", line)
	checkByTor(t, lab, lab.Router, testnet.Web4)
	checkTransportIsTors(t, lab, "obfs4proxy")
	checkOnlyTheBridge(t, capture)
}

// TestBridgesThatCannotBeUsedChangeNothing: what is wrong is said, with what to do.
func TestBridgesThatCannotBeUsedChangeNothing(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	line := []string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}
	attach(t, lab, line...)
	before := mustTorbpf(t, lab, "tor", "bridges").stdout
	const bridge = "192.0.2.7:443 A1B2C3D4E5F60718293A4B5C6D7E8F9001122334"
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--bridge", "obfs4 192.0.2.7"}, 2, "no address with a port"},
		{[]string{"--bridge", "obfs4 " + bridge + " cert=x\nSocksPort 0.0.0.0:9050"}, 2, "is in no bridge"},
		{[]string{"--bridge", "webtunnel " + bridge + " url=https://a.example/"}, 1, "install webtunnel-client"},
		{[]string{"--bridge", "carrier_pigeon " + bridge + " a=b"}, 1, "--transport carrier_pigeon=/path"},
		{[]string{"--bridge", "obfs4 " + bridge + " cert=x", "--transport", "obfs4=/nowhere/obfs4proxy"}, 1, "is no program"},
		{[]string{"--transport", "obfs4"}, 2, "write the transport and its program"},
		{[]string{"--tor", "system", "--bridge", "obfs4 " + bridge + " cert=x"}, 2, "ClientTransportPlugin obfs4 exec"},
	} {
		r := runTorbpf(t, lab, append(append([]string{"attach"}, line...), test.args...)...)
		if r.code != test.code || !strings.Contains(r.stderr, test.want) {
			t.Errorf("attach %q: %v; want code %d and %q", test.args, r, test.code, test.want)
		}
	}
	if now := mustTorbpf(t, lab, "tor", "bridges").stdout; now != before {
		t.Errorf("the bridges are %s, and were %s", now, before)
	}
	if r := mustTorbpf(t, lab, "status"); strings.Contains(r.stdout, "! ") {
		t.Errorf("status afterwards: %v", r)
	}
	r := mustTorbpf(t, lab, append(append([]string{"attach"}, line...), "--bridge", bridge)...)
	if report := bridgesNow(t, lab); !report.Enabled || len(report.Bridges) != 1 || report.Bridges[0].Connected || report.Bridges[0].State != "never-connected" {
		t.Errorf("of a bridge that does not answer: %+v, %v", report, r)
	}
}

// TestSnowflakeRunsBesideTor as obfs4 does, with its real program: under tor's account and in its
// control group, nobody else's to use, and free to ask for its broker. Without the internet it finds none, and
// tor says how far it is.
func TestSnowflakeRunsBesideTor(t *testing.T) {
	const program = "snowflake-clien" // as far as the kernel has its name
	const id = "2B280B23E1107BB62ABFC40DDCC8824814F80A72"
	stun := at(testnet.Web4, 3478)
	lab := torLab(t)
	capture := captureWAN(t, lab)
	line := fmt.Sprintf("snowflake 192.0.2.3:80 %s fingerprint=%s url=https://broker.%s/ ice=stun:%s utls-imitate=hellorandomizedalpn", id, id, testnet.Zone, stun)
	attach(t, lab, "--client", "--no-wait", "--bridge", line)
	checkTransportIsTors(t, lab, program)
	pids, tors := pidsNamed(t, lab, program), pidsNamed(t, lab, "tor")
	if len(pids) != 1 || len(tors) != 1 {
		t.Fatalf("the processes are %v and %v", pids, tors)
	}
	of := func(pid int, file string) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if a, b := of(pids[0], "cgroup"), of(tors[0], "cgroup"); a != b {
		t.Errorf("it is in %s, and tor in %s", a, b)
	}
	if status := of(pids[0], "status"); strings.Contains(status, "Uid:\t0") || !strings.Contains(status, "CapEff:\t0000000000000000") || !strings.Contains(status, fmt.Sprintf("PPid:\t%d\n", tors[0])) {
		t.Errorf("it is no child of tor's without privileges: %s", status)
	}
	eventually(t, patience, "what it sends to find volunteers", func() error {
		for _, p := range capture.Packets() {
			if p.Inbound && p.Proto == "udp" && p.Dst == stun {
				return nil
			}
		}
		return fmt.Errorf("it sends nothing to %s", stun)
	})
	report := bridgesNow(t, lab)
	if !report.Enabled || len(report.Bridges) != 1 || report.Bridges[0].Transport != "snowflake" || report.Bridges[0].Connected {
		t.Errorf("of bridges it says %+v", report)
	}
	if len(report.Transports) != 1 || !report.Transports[0].Found || !strings.Contains(report.Transports[0].Program, program) {
		t.Errorf("of transports it says %+v", report.Transports)
	}
	if out := mustTorbpf(t, lab, "tor", "bridges").stdout; !strings.Contains(out, "snowflake") || strings.Contains(out, "broker") {
		t.Errorf("tor bridges: %s", out)
	}
	if d := torReport(t, lab).Instances[0]; d.Ready || !d.Alive || d.Percent >= 100 {
		t.Errorf("without a bridge tor is %+v", d)
	}
	if r := runTorbpf(t, lab, "tor", "status"); !strings.Contains(r.stdout, "by snowflake") {
		t.Errorf("tor status: %v", r)
	}
	mustTorbpf(t, lab, attachArgs(lab, "--no-wait", "--bridge", "")...)
	eventually(t, patience, "the end of the transport", func() error {
		if pids := pidsNamed(t, lab, program); len(pids) > 0 {
			return fmt.Errorf("it has processes %v", pids)
		}
		return nil
	})
}

// TestTransportsSendWhatTheyMust in client mode: snowflake asks resolvers and sends UDP, and
// nobody but tor's own processes may.
func TestTransportsSendWhatTheyMust(t *testing.T) {
	lab := torLab(t)
	dir, err := testnet.ProgramDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const port = 3478
	program := filepath.Join(dir, "pigeon")
	send := fmt.Sprintf("echo coo > /dev/udp/%s/%d", testnet.Web4, port)
	text := "#!/bin/bash\nwhile " + send + "; do read -t 0.1; done\n"
	if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	capture := captureWAN(t, lab)
	attach(t, lab, "--client", "--no-wait", "--bridge", "pigeon 192.0.2.7:443 a=b", "--transport", "pigeon="+program)
	coos := func() int {
		n := 0
		for _, p := range capture.Packets() {
			if p.Inbound && p.Proto == "udp" && p.Dst == at(testnet.Web4, port) {
				n++
			}
		}
		return n
	}
	eventually(t, patience, "a datagram of the transport's", func() error {
		if coos() == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	mustTorbpf(t, lab, attachArgs(lab, "--no-wait", "--bridge", "")...) // tor ends it
	eventually(t, patience, "the end of the transport", func() error {
		if pids := pidsNamed(t, lab, "pigeon"); len(pids) > 0 {
			return fmt.Errorf("it has processes %v", pids)
		}
		return nil
	})
	capture.Reset()
	if out, err := lab.Router.Run(t.Context(), "bash", "-c", send); err == nil {
		t.Logf("sent by root without an error: %s", out) // the kernel may tell a sender later
	}
	if n := coos(); n > 0 {
		t.Errorf("%d datagrams of somebody else's have left", n)
	}
}
