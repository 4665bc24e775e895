package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/testnet"
)

// executed is a shell script that torbpf exec runs.
type executed struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
}

func startExec(t testing.TB, lab *testnet.Lab, script string, flags ...string) *executed {
	t.Helper()
	args := append(append([]string{"exec"}, flags...), "--", "bash", "-c", script)
	e := &executed{cmd: lab.Router.Command(t.Context(), program, args...)}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.lines = bufio.NewReader(out)
	if e.stdin, err = e.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.cmd.Process.Kill() }) // of a test that fails
	return e
}

// says wants the script's next line to be this one.
func (e *executed) says(t testing.TB, want string) {
	t.Helper()
	if line, err := e.lines.ReadString('\n'); err != nil || line != want+"\n" {
		t.Fatalf("the program said %q, %v; want %q", line, err, want)
	}
}

// ends wants torbpf exec to end with an exit code.
func (e *executed) ends(t testing.TB, code int) {
	t.Helper()
	_ = e.cmd.Wait() // the exit code tells
	if got := e.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("torbpf exec ended with %d, want %d", got, code)
	}
}

// kill ends torbpf exec, which leaves what it has to clear up.
func (e *executed) kill(t testing.TB) {
	t.Helper()
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = e.cmd.Wait() // by that signal
}

// cells are the control groups of what exec runs.
func cells(t testing.TB, lab *testnet.Lab) []string {
	t.Helper()
	root, err := cgroup.Tree()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(root, "torbpf", namespaceName(t, lab), "exec-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDetachLetsDirectProgramsGoOn: what exec runs direct is as everything else then, and its
// control group goes when it ends.
func TestDetachLetsDirectProgramsGoOn(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	before := takeSnapshot(t, lab)
	script := fmt.Sprintf(`echo began; read; exec 3<>/dev/tcp/%v/%d && echo connected; exit 7`, testnet.Other4, testnet.PortEcho)
	for name, c := range map[string]struct{ attach, detach []string }{
		"the last":     {[]string{"--client"}, []string{"--client"}},
		"all":          {[]string{lan, "--client"}, []string{"--all"}},
		"beside a LAN": {[]string{lan, "--client"}, []string{"--client"}},
	} {
		t.Run(name, func(t *testing.T) {
			attach(t, lab, append(c.attach, "--no-wait", "--torrc", loneTorrc(t, lab))...)
			e := startExec(t, lab, script, "--direct")
			e.says(t, "began")
			mustTorbpf(t, lab, append([]string{"detach"}, c.detach...)...)
			if _, err := io.WriteString(e.stdin, "\n"); err != nil {
				t.Error(err)
			}
			e.says(t, "connected")
			e.ends(t, 7)
			if left := cells(t, lab); len(left) > 0 {
				t.Errorf("control groups %v are left", left)
			}
		})
		runTorbpf(t, lab, "detach", "--all")
		before.checkSame(t, takeSnapshot(t, lab))
	}
}

// TestDetachEndsADirectProgramThatNobodyWaitsFor: its torbpf exec was killed, so it is nobody's.
func TestDetachEndsADirectProgramThatNobodyWaitsFor(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	e := startExec(t, lab, `(trap "" HUP; sleep 600) & echo began; read`, "--direct")
	e.says(t, "began")
	e.kill(t)
	mustTorbpf(t, lab, "detach", "--all")
	if left := cells(t, lab); len(left) > 0 {
		t.Errorf("control groups %v are left", left)
	}
}

// TestDetachAsksProgramsOnTorToEnd: they are told while all still holds them, and nothing of
// them gets out in clear.
func TestDetachAsksProgramsOnTorToEnd(t *testing.T) {
	lab := torLab(t)
	before := takeSnapshot(t, lab)
	detachLater(t, lab)
	try := fmt.Sprintf(`timeout 0.2 bash -c 'exec 3<>/dev/tcp/%v/%d' 2>/dev/null`, testnet.Other4, testnet.PortEcho)
	for name, c := range map[string]struct {
		script string
		code   int
	}{
		"obeys":   {fmt.Sprintf(`trap "%s; echo asked; exit 7" TERM; echo began; while :; do read -t 0.1; done`, try), 7},
		"ignores": {fmt.Sprintf(`trap "" TERM; echo began; while :; do %s; done`, try), 128 + int(unix.SIGKILL)},
	} {
		t.Run(name, func(t *testing.T) {
			forget(lab)
			e := startExec(t, lab, c.script, "--tor", "--config", configuration(t, lab, "interfaces = [\"eth1\"]"))
			e.says(t, "began")
			mustTorbpf(t, lab, "detach", "--all")
			if name == "obeys" {
				e.says(t, "asked")
			}
			e.ends(t, c.code)
			for _, v := range lab.Web.Visits() {
				if source := v.Source.Addr(); !lab.Tor.IsExit(source) {
					t.Errorf("%v was reached by %v", v.Local, source)
				}
			}
		})
		before.checkSame(t, takeSnapshot(t, lab))
	}
}
