package e2e

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// talker is a shell of the router's own with a UDP socket, which asks an echo for an answer
// each time that it is told to.
type talker struct {
	in  io.Writer
	out *bufio.Scanner
}

func startTalker(t *testing.T, lab *testnet.Lab) *talker {
	t.Helper()
	script := fmt.Sprintf("exec 3<>/dev/udp/%s/%d; while read -r; do echo hello >&3; read -r -n 1 -t 1 -u 3 && echo answered || echo silence; done", testnet.Web4, testnet.PortEcho)
	cmd := lab.Router.Command(t.Context(), "bash", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return &talker{in, bufio.NewScanner(out)}
}

func (k *talker) expect(word string) func() error {
	return func() error {
		if _, err := fmt.Fprintln(k.in); err != nil {
			return err
		}
		if !k.out.Scan() || k.out.Text() != word {
			return fmt.Errorf("the socket has %q, want %q", k.out.Text(), word)
		}
		return nil
	}
}

// TestAnOlderSocketIsDirectForAsLongAsItsRule: it gets mark and rule from a command, and
// nobody is there to take either back; a command does, and none of that is an alarm.
func TestAnOlderSocketIsDirectForAsLongAsItsRule(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	older := startTalker(t, lab)
	eventually(t, patience, "an answer before attach", older.expect("answered"))
	path := configFile(t, lab, "[client]\nenable = true\n")
	detachLater(t, lab)
	mustTorbpf(t, lab, "apply", "--no-wait", "--config", path)
	eventually(t, patience, "silence", older.expect("silence"))
	mustTorbpf(t, lab, "exclude", "add", "--program", "/usr/bin/bash", "--for", "6s")
	eventually(t, patience, "an answer", older.expect("answered"))
	eventually(t, patience, "the end of the rule", older.expect("silence"))
	if said := mustTorbpf(t, lab, "status").stdout; !strings.Contains(said, "client-ended") {
		t.Errorf("nothing was stopped for its rule: %s", said)
	}
	if r := runTorbpf(t, lab, "check"); strings.Contains(r.stdout+r.stderr, "client-guard") {
		t.Errorf("it is an alarm: %v", r)
	}
	mustTorbpf(t, lab, "exclude", "add", "--program", "/usr/bin/bash")
	eventually(t, patience, "an answer with another rule", older.expect("answered"))
}
