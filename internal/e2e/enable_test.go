package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// TestEnableKeepsWhatIsAttached: enable writes what is attached to a file, has the
// service manager start it, and what it starts takes over without a change.
func TestEnableKeepsWhatIsAttached(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	file := filepath.Join(lab.Dir(), "etc", "torbpf.toml")
	asked := fakeSystemctl(t, lab)
	if r := runTorbpf(t, lab, "enable", "--config", file); r.code != 3 || !strings.Contains(r.stderr, "torbpf attach INTERFACE") {
		t.Errorf("enable with nothing attached: %v", r)
	}
	mustTorbpf(t, lab, "attach", lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--exclude", other4, "--mark-shift", "16")
	if r := mustTorbpf(t, lab, "enable", "--config", file); !strings.Contains(r.stdout, "wrote "+file) {
		t.Errorf("enable: %v", r)
	}
	for _, want := range []string{"cat torbpf.service", "enable --now torbpf.service"} {
		if got := asked(); !strings.Contains(got, want) {
			t.Errorf("systemctl was asked %q, want %q", got, want)
		}
	}
	before := ourProcesses(t, lab)
	d := startRun(t, lab, file)
	eventually(t, patience, "the takeover", func() error {
		if err := sound(t, lab, lan); err != nil {
			return err
		}
		if r := runTorbpf(t, lab, "exclude", "list"); !strings.Contains(r.stdout, other4) {
			return fmt.Errorf("exclusions: %v", r)
		}
		return nil
	})
	if after := ourProcesses(t, lab); before[0] != after[0] {
		t.Errorf("tor was started anew: %v, then %v", before, after)
	}
	// What a command changes stays until the file does.
	mustTorbpf(t, lab, "exclude", "del", other4)
	signalTo(t, d, unix.SIGHUP)
	d.await(t, "the configuration is in force")
	if r := runTorbpf(t, lab, "exclude", "list"); strings.Contains(r.stdout, other4) {
		t.Errorf("a reload of the same file undid what a command had changed: %v", r)
	}
	mustTorbpf(t, lab, "detach", "--all")
	signalTo(t, d, unix.SIGHUP)
	mustTorbpf(t, lab, "disable")
	if got := asked(); !strings.Contains(got, "disable --now torbpf.service") {
		t.Errorf("systemctl was asked %q", got)
	}
	// The daemon is still there, and has had its ticks.
	d.await(t, "not reloaded")
	if r := runTorbpf(t, lab, "status"); r.code != 3 {
		t.Errorf("torbpf run attached again what was detached: %v", r)
	}
	if left := files(t, stateDir(t, lab), pinDir(t, lab)); left != "" {
		t.Errorf("torbpf run has left, or made anew:\n%s", left)
	}
}

// fakeSystemctl stands in for the service manager, which a namespace has none of,
// and returns what it was asked.
func fakeSystemctl(t *testing.T, lab *testnet.Lab) (asked func() string) {
	t.Helper()
	dir := filepath.Join(lab.Dir(), "bin")
	log := filepath.Join(dir, "asked")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho \"$@\" >>" + log + "\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		text, err := os.ReadFile(log)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
}
