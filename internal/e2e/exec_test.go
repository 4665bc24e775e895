package e2e

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// configuration writes a file with the lab's tor, and returns its path.
func configuration(t testing.TB, lab *testnet.Lab, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "torbpf.toml")
	text = fmt.Sprintf("%s\n[tor]\ntorrc = %q\n", text, lab.ClientTorrcFile())
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// bashGet is a dynamic program that fetches a page and prints whom the server saw.
func bashGet(addr netip.Addr) []string {
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%v/80; printf 'GET / HTTP/1.0\r\nHost: x\r\n\r\n' >&3; tail -n 1 <&3`, addr)
	return []string{"bash", "-c", script}
}

// execSaw runs a program by torbpf exec and returns what it prints.
func execSaw(t testing.TB, lab *testnet.Lab, flags []string, stdin string, command ...string) string {
	t.Helper()
	args := append(append([]string{"exec"}, flags...), "--")
	cmd := lab.Router.Command(t.Context(), program, append(args, command...)...)
	cmd.Env = append(os.Environ(), envSpeak+"=1")
	cmd.Stdin = strings.NewReader(stdin)
	r := runCommand(t, cmd)
	if r.code != 0 {
		t.Fatalf("exec %v %v: %v", flags, command, r)
	}
	return strings.TrimPrefix(strings.TrimSpace(r.stdout), "ok ")
}

// TestExecByTor runs programs by Tor while the rest of the machine is direct, and leaves
// nothing behind.
func TestExecByTor(t *testing.T) {
	lab := torLab(t)
	before := takeSnapshot(t, lab)
	detachLater(t, lab)
	flags := []string{"--tor", "--config", configuration(t, lab, "")}
	for _, addr := range []netip.Addr{testnet.Web4, testnet.Web6} {
		for kind, saw := range map[string]string{
			"dynamic": execSaw(t, lab, flags, "", bashGet(addr)...),
			"static":  execSaw(t, lab, append(flags, "--user", "nobody"), fmt.Sprintf("get %v\n", addr), speakerFile),
		} {
			if source, err := netip.ParseAddr(saw); err != nil || !lab.Tor.IsExit(source) {
				t.Errorf("a %s program at %v: the server saw %q", kind, addr, saw)
			}
		}
	}
	r := runTorbpf(t, lab, append(append([]string{"exec"}, flags...), "--", "ping", "-c", "1", "-W", "2", testnet.Web4.String())...)
	if r.code == 0 {
		t.Errorf("a ping got out: %v", r)
	}
	if r := runTorbpf(t, lab, "exec", "--tor", "--config", "/nowhere.toml", "--", "true"); r.code != 1 || !strings.Contains(r.stderr, "/nowhere.toml: no such file") {
		t.Errorf("with a configuration that is not there: %v", r)
	}
	before.checkSame(t, takeSnapshot(t, lab))
}

// TestExecByTorIsClosedAndAlone: while it runs all else is direct, and killed it takes its
// program along; nothing of that gets out in clear.
func TestExecByTorIsClosedAndAlone(t *testing.T) {
	lab := torLab(t)
	before := takeSnapshot(t, lab)
	detachLater(t, lab)
	script := fmt.Sprintf(`while :; do timeout 0.05 bash -c 'exec 3<>/dev/tcp/%v/%d' 2>/dev/null; echo tried; done`, testnet.Other4, testnet.PortEcho)
	cmd := lab.Router.Command(t.Context(), program, "exec", "--tor", "--config", configuration(t, lab, ""), "--", "bash", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	tries := func(n int) {
		for range n {
			if line, err := lines.ReadString('\n'); err != nil || line != "tried\n" {
				t.Fatalf("the program said %q, %v", line, err)
			}
		}
	}
	tries(1)
	if r := runTorbpf(t, lab, "status"); r.code != 0 || !regexp.MustCompile(`(?m)^exec +bash.* by Tor$`).MatchString(r.stdout) {
		t.Errorf("status of what exec runs: %v", r)
	}
	checkDirect(t, lab.Router, testnet.Web4)
	checkDirect(t, lab.Router, testnet.Web6)
	checkDirect(t, lab.Client1, testnet.Web4)
	forget(lab)
	run(t, lab.Router, "nft", "delete", "table", "inet", "torbpf")
	tries(20)
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, v := range lab.Web.Visits() {
		if source := v.Source.Addr(); !lab.Tor.IsExit(source) {
			t.Errorf("%v was reached by %v", v.Local, source)
		}
	}
	mustTorbpf(t, lab, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, lab))
}

// TestExecDirect runs a program outside Tor while the machine is on it.
func TestExecDirect(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, "--client")
	for _, addr := range []netip.Addr{testnet.Web4, testnet.Web6} {
		want := testnet.WANRouter4
		if addr.Is6() {
			want = testnet.WANRouter6
		}
		for kind, saw := range map[string]string{
			"dynamic": execSaw(t, lab, []string{"--direct"}, "", bashGet(addr)...),
			"static":  execSaw(t, lab, []string{"--direct", "--user", "nobody"}, fmt.Sprintf("get %v\n", addr), speakerFile),
		} {
			if saw != want.String() {
				t.Errorf("a %s program at %v: the server saw %q, want %v", kind, addr, saw, want)
			}
		}
		checkByTor(t, lab, lab.Router, addr)
	}
	r := runTorbpf(t, lab, "exec", "--direct", "--", "bash", "-c", "exit 7")
	if r.code != 7 {
		t.Errorf("the program's exit code: %v", r)
	}
}

// TestClearnetProxy reaches the web directly, names included, while all else is by Tor; and
// so does a proxy of the user's own whose account is excluded.
func TestClearnetProxy(t *testing.T) {
	lab := torLab(t)
	detachLater(t, lab)
	file := configuration(t, lab, fmt.Sprintf("[client]\nenable = true\nproxy_port = 3128\n[client.exclusions]\nusers = [\"4712\"]\n[exclusions]\nresolver = %q\n", testnet.Resolver4))
	mustTorbpf(t, lab, "apply", "--config", file, "--timeout", torPatience.String())
	checkByTor(t, lab, lab.Router, testnet.Web4)
	forget(lab)
	const proxy = "127.0.0.1:3128"
	for _, target := range []string{page(testnet.Web4), "http://proxied.example.test/", "https://proxied.example.test/"} {
		if err := fetchByProxy(lab.Router, proxy, target, ownAddress); err != nil {
			t.Error(err)
		}
	}
	asked := lab.DNS.QueriesFor("proxied." + testnet.Zone)
	if len(asked) == 0 {
		t.Error("the chosen resolver was not asked for the proxy's name")
	}
	for _, q := range asked {
		if q.Source.Addr() != testnet.WANRouter4 {
			t.Errorf("the proxy's name was asked for by %v", q.Source)
		}
	}
	if err := startSpeaker(t, lab, 4712, "").direct(testnet.Web4); err != nil {
		t.Errorf("a proxy of the user's: %v", err)
	}
	checkByTor(t, lab, lab.Router.As(someone), testnet.Web4)
	if err := fetchByProxy(lab.Router, proxy, "http://127.0.0.1:9040/", ownAddress); err == nil {
		t.Error("the proxy reaches what listens on this machine alone")
	}
	mustTorbpf(t, lab, "check")
}

// fetchByProxy has a program ask a proxy for a page, HTTPS by CONNECT, and checks whom the
// server saw.
func fetchByProxy(n *testnet.Node, proxy, target string, want func(netip.Addr) bool) error {
	saw, err := testnet.HTTPGetProxy(n, proxy, target, torPatience)
	if err != nil {
		return err
	}
	if source, err := netip.ParseAddr(saw); err != nil || !want(source) {
		return fmt.Errorf("get %s by the proxy at %s: the server saw %q", target, proxy, saw)
	}
	return nil
}

// ownAddress tells the router's addresses, which a server sees of what is direct.
func ownAddress(a netip.Addr) bool { return a == testnet.WANRouter4 || a == testnet.WANRouter6 }
