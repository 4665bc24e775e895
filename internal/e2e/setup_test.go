package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/testnet"
)

const (
	lan  = "eth1" // the LAN of client1 and client2
	lan2 = "eth2" // that of client3
	wan  = "eth0"
)

var (
	// patience is how long a condition may take to come about before a test
	// fails; it is generous, since a machine that runs other tests is slow.
	patience = testnet.Patience(20 * time.Second)

	// torPatience bounds what waits for circuits of the Tor network.
	torPatience = testnet.Patience(60 * time.Second)
)

// program is the torbpf under test. It was built without cgo into a folder that
// everyone may enter, since the sentry runs it without privileges.
var program string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if os.Getenv(envSpeak) != "" {
		speak()
		return 0
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "end-to-end tests need root for network namespaces: run them with sudo")
		return 1
	}
	dir, err := testnet.ProgramDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "torbpf")
	speakerFile = filepath.Join(dir, "speaker")
	if err := errors.Join(testnet.BuildProgram(program), copySpeaker(speakerFile)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := closeSharedLab(); err != nil {
		fmt.Fprintln(os.Stderr, "close lab:", err)
		return 1
	}
	return code
}

var shared struct {
	once sync.Once
	lab  *testnet.Lab
	err  error
}

// torLab returns the lab with Tor and a second LAN that tests share, with its
// servers' memory emptied. A test attaches for itself (see attach) and leaves the
// router as it found it.
func torLab(t *testing.T) *testnet.Lab {
	t.Helper()
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testnet.Patience(3*time.Minute))
		defer cancel()
		shared.lab, shared.err = testnet.Start(ctx, testnet.Options{SecondLAN: true})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	forget(shared.lab)
	return shared.lab
}

// plainLab returns a lab of the test's own, without a Tor network. Attach there
// with --no-wait: Tor never gets ready, and the gate stays closed.
func plainLab(t *testing.T, o testnet.Options) *testnet.Lab {
	t.Helper()
	o.NoTor = true
	o.Logf = func(string, ...any) {}
	return testnet.New(t, o)
}

// forget empties the memory of all servers of a lab.
func forget(lab *testnet.Lab) {
	for _, s := range []*testnet.Services{lab.Web, lab.Forwarded} {
		s.Reset()
	}
	for _, s := range []*testnet.DNSServer{lab.DNS, lab.RouterDNS} {
		s.Reset()
	}
}

func closeSharedLab() error {
	if shared.lab == nil {
		return nil
	}
	return shared.lab.Close()
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// runTorbpf runs the program in the router's namespace to its end.
func runTorbpf(t testing.TB, lab *testnet.Lab, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testnet.Patience(2*time.Minute))
	defer cancel()
	return runCommand(t, lab.Router.Command(ctx, program, args...))
}

func runCommand(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %v: %v", cmd.Args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// mustTorbpf runs the program and ends the test unless it exits with 0.
func mustTorbpf(t testing.TB, lab *testnet.Lab, args ...string) result {
	t.Helper()
	r := runTorbpf(t, lab, args...)
	if r.code != 0 {
		t.Fatalf("torbpf %v: %v", args, r)
	}
	return r
}

// attach runs `attach` with these arguments, in a lab with Tor with what makes
// the managed tor use the lab's network. See detachLater for the end.
func attach(t testing.TB, lab *testnet.Lab, args ...string) result {
	t.Helper()
	detachLater(t, lab)
	return mustTorbpf(t, lab, attachArgs(lab, args...)...)
}

// attachArgs is the command line of attach in this lab.
func attachArgs(lab *testnet.Lab, args ...string) []string {
	line := []string{"attach"}
	if lab.Tor != nil {
		line = append(line, "--torrc", lab.ClientTorrcFile(), "--timeout", torPatience.String())
	}
	return append(line, args...)
}

// detachLater detaches everything at the end of the test, and before that shows
// the state of the router if the test has failed. Tests that run the program in
// another way than by attach call it themselves.
func detachLater(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, lab)
		}
		r := runTorbpf(t, lab, "detach", "--all")
		if r.code != 0 && r.code != 3 { // 3: not attached
			t.Errorf("detach --all: %v", r)
		}
	})
}

// dump logs what the router looks like.
func dump(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	t.Logf("status: %v", runTorbpf(t, lab, "status"))
	for _, cmd := range [][]string{
		{"nft", "list", "ruleset"}, {"ip", "rule"}, {"ip", "-6", "rule"}, {"conntrack", "-L"}, {"conntrack", "-L", "-f", "ipv6"},
	} {
		out, err := lab.Router.Run(context.Background(), cmd[0], cmd[1:]...)
		t.Logf("%v: %v\n%s", cmd, err, out)
	}
	for _, name := range []string{"state.json", "sentry.log", "tor/run/notice.log"} {
		text, err := os.ReadFile(filepath.Join(stateDir(t, lab), name))
		t.Logf("%s: %v\n%s", name, err, text)
	}
}

// stateDir is where torbpf keeps its run-time files for the router's namespace.
func stateDir(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	return filepath.Join("/run/torbpf", namespaceName(t, lab))
}

// pinDir is where the BPF pins are, such as maps/gates.
func pinDir(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	return filepath.Join("/run/torbpf/bpf", namespaceName(t, lab))
}

func namespaceName(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	var ns host.NS
	err := lab.Router.Do(func() (err error) {
		ns, err = host.Namespace()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// eventually polls a condition until it reports nil, and ends the test with what
// it reported last if that does not come about.
func eventually(t testing.TB, within time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s did not come about within %v: %v", what, within, err)
		case <-tick.C:
		}
	}
}

// fairly is the time that something takes which is promised within d of a machine that has
// nothing else to do: of one with more work than processors each gets its share.
func fairly(t testing.TB, d time.Duration) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	load := 0.0 // of the last minute
	if _, err := fmt.Sscan(string(text), &load); err != nil {
		t.Fatal(err)
	}
	return time.Duration(float64(d) * max(1, load/float64(runtime.NumCPU())))
}

// captureWAN records the WAN until the test ends or calls Stop.
func captureWAN(t testing.TB, lab *testnet.Lab) *testnet.Capture {
	t.Helper()
	capture, err := lab.CaptureWAN(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return capture
}

// run runs a program on a node and ends the test if it fails.
func run(t testing.TB, n *testnet.Node, name string, args ...string) string {
	t.Helper()
	out, err := n.Run(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
