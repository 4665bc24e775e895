package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
	"github.com/torbpf/torbpf/tor"
)

// TestSystemTor: a tor that the user runs is used where it fits, left alone
// otherwise, and what it lacks is said in lines that make it fit.
func TestSystemTor(t *testing.T) {
	lab := torLab(t)
	detachLater(t, lab)
	s := startSystemTor(t, lab)
	args := []string{"attach", lan, "--tor", "system", "--control", s.control, "--timeout", torPatience.String()}

	// Each refusal names what is missing; the first cannot yet know whom to serve.
	var r result
	for range 3 {
		if r = runTorbpf(t, lab, args...); r.code == 0 {
			break
		}
		if r.code != 1 || !strings.Contains(r.stderr, "add these lines to its torrc") {
			t.Fatalf("attach to an unfit tor: %v", r)
		}
		if left := files(t, stateDir(t, lab), pinDir(t, lab)); left != "" {
			t.Errorf("left by a refused attach:\n%s", left)
		}
		checkDirect(t, lab.Client1, testnet.Web4)
		s.add(t, linesAsked(r.stderr))
	}
	if r.code != 0 {
		t.Fatalf("attach to a tor with all lines asked for: %v", r)
	}
	if s.asked < 4 {
		t.Errorf("only %d lines were asked for", s.asked)
	}
	capture := captureWAN(t, lab)
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	checkByTor(t, lab, lab.Client2, testnet.Web6)
	isOnion := func(a netip.Addr) bool { return a == lab.Tor.OnionSource }
	if err := fetch(lab.Client1, "http://"+lab.Tor.Onion+"/", isOnion); err != nil {
		t.Error(err)
	}
	for _, proto := range []string{"udp", "tcp"} {
		if err := lookup(lab.Client1, lab.Client1.Resolver, "system."+testnet.Zone, "A", proto, testnet.Web4.String()); err != nil {
			t.Error(err)
		}
	}
	checkNoEcho(t, lab.Client1, testnet.Web4)
	used := circuitsOf(circuitsNow(t, lab), lab.Client1)
	if d := torReport(t, lab).Instances[0]; len(used) == 0 || d.Control != s.control || d.PID != s.cmd.Process.Pid || d.Circuits < len(used) {
		t.Errorf("of its %v circuits tor status says %+v", used, d)
	}
	report, r := examined(t, lab)
	if open := findings(report, "open-ports"); !strings.Contains(open, "(53/udp)") || strings.Contains(open, "tor (") || findings(report, "tor") != "[]" {
		t.Errorf("doctor, of a router without a firewall: %v", r)
	}
	mustTorbpf(t, lab, "tor", "newnym", lab.Client1.MAC.String())
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	if again := sharedCircuits(used, circuitsOf(circuitsNow(t, lab), lab.Client1)); len(again) > 0 {
		t.Errorf("the device goes by circuits %v, which it has used before", again)
	}
	checkNoLeaks(t, capture)
	if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "Tor          system") {
		t.Errorf("status: %v", r)
	}
	mustTorbpf(t, lab, "detach", "--all")
	if err := s.cmd.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the user's tor after detach: %v", err)
	}
	checkDirect(t, lab.Client1, testnet.Web4)
}

// systemTor is a tor as a distribution runs it: under its own account, with a
// control socket that its group may use.
type systemTor struct {
	cmd            *exec.Cmd
	torrc, control string
	asked          int // lines that were added
}

func startSystemTor(t testing.TB, lab *testnet.Lab) *systemTor {
	t.Helper()
	account, err := tor.LookupAccount()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(lab.Dir(), "system-tor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chown(dir, int(account.UID), int(account.GID)), os.Chmod(dir, 0o750)); err != nil {
		t.Fatal(err)
	}
	s := &systemTor{torrc: filepath.Join(dir, "torrc"), control: filepath.Join(dir, "control")}
	text := lab.ClientTorrc() + strings.Join([]string{
		"User " + account.Name, "DataDirectory " + filepath.Join(dir, "data"), "SocksPort 0",
		"ControlSocket " + s.control, "ControlSocketsGroupWritable 1",
		"CookieAuthentication 1", "CookieAuthFileGroupReadable 1", "CookieAuthFile " + filepath.Join(dir, "cookie"),
	}, "\n") + "\n"
	if err := os.WriteFile(s.torrc, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.cmd = lab.Router.Command(t.Context(), "tor", "--quiet", "--defaults-torrc", os.DevNull, "-f", s.torrc)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = s.cmd.Process.Kill(), s.cmd.Wait()
	})
	eventually(t, patience, "the control socket of the user's tor", func() error {
		_, err := os.Stat(s.control)
		return err
	})
	return s
}

// add puts lines into the torrc and has tor read it.
func (s *systemTor) add(t testing.TB, lines []string) {
	t.Helper()
	if len(lines) == 0 {
		t.Fatal("no lines were asked for")
	}
	s.asked += len(lines)
	text, err := os.ReadFile(s.torrc)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, strings.Join(lines, "\n")+"\n"...)
	if err := os.WriteFile(s.torrc, text, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("asked for:\n%s", strings.Join(lines, "\n"))
	if err := s.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.awaitReload(t, lines)
}

// awaitReload waits until tor says that the last of the lines is in force.
func (s *systemTor) awaitReload(t testing.TB, lines []string) {
	t.Helper()
	key, _, _ := strings.Cut(lines[0], " ")
	value := strings.TrimPrefix(lines[0], key+" ")
	value, _, _ = strings.Cut(value, " #")
	eventually(t, patience, "tor's reload", func() error {
		c, err := tor.Dial(t.Context(), s.control)
		if err != nil {
			return err
		}
		defer c.Close()
		values, err := c.GetConf(t.Context(), key)
		if err != nil {
			return err
		}
		for _, v := range values {
			if v == value || strconv.Quote(v) == value {
				return nil
			}
		}
		return fmt.Errorf("%s is %q, want %q", key, values, value)
	})
}

// linesAsked are the indented lines at the end of a refusal.
func linesAsked(stderr string) []string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "  ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
