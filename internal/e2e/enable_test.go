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

// TestDoctorTellsWhatARebootRemoves: all, where nothing starts torbpf at boot; what the
// configuration does not name, where something does.
func TestDoctorTellsWhatARebootRemoves(t *testing.T) {
	lab := plainLab(t, testnet.Options{SecondLAN: true})
	detachLater(t, lab)
	fakeSystemctl(t, lab)
	file := filepath.Join(lab.Dir(), "etc", "torbpf.toml")
	look := func(want string) {
		t.Helper()
		checkBootFinding(t, runTorbpf(t, lab, "doctor", "--json", "--config", file).stdout, want)
	}
	mustTorbpf(t, lab, "attach", lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	look("nothing starts torbpf at boot")
	mustTorbpf(t, lab, "enable", "--config", file)
	look("")
	mustTorbpf(t, lab, "attach", lan2, "--no-wait")
	look(file + " does not name: " + lan2)
	if r := runTorbpf(t, lab, "doctor", "--config", file); r.code != 1 || !strings.Contains(r.stdout, "torbpf enable --save") {
		t.Errorf("it does not say what to type: %v", r)
	}
	mustTorbpf(t, lab, "enable", "--save", "--config", file)
	look("")
	mustTorbpf(t, lab, "disable")
	look("nothing starts torbpf at boot")
}

// TestEnableWithoutAServiceManager writes the configuration, and both say by whose hand the rest is.
func TestEnableWithoutAServiceManager(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	fakeProgram(t, lab, "systemctl", `echo "System has not been booted with systemd as init system (PID 1). Can't operate." >&2; exit 1`)
	file := filepath.Join(lab.Dir(), "etc", "torbpf.toml")
	if r := runTorbpf(t, lab, "enable", "--config", file); r.code != 3 || !strings.Contains(r.stderr, "torbpf attach INTERFACE") {
		t.Errorf("with nothing attached: %v", r)
	}
	mustTorbpf(t, lab, "attach", lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, wrote := range []string{"wrote " + file, file + " stays as it is"} {
		r := runTorbpf(t, lab, "enable", "--config", file)
		for _, says := range []string{"neither systemd nor OpenRC nor procd", "`torbpf run --block-only --config " + file + "` at every boot before the network", "then `torbpf run --config " + file + "`", "a reboot removes all of this"} {
			if r.code != 1 || !strings.Contains(r.stdout, wrote) || !strings.Contains(r.stderr, says) {
				t.Errorf("enable: want %q and %q: %v", wrote, says, r)
			}
		}
	}
	if r := runTorbpf(t, lab, "enable", "--json", "--save", "--config", file); r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "wrote "+file) {
		t.Errorf("enable --json: %v", r)
	}
	if r := runTorbpf(t, lab, "doctor"); !strings.Contains(r.stdout, "cannot be told") {
		t.Errorf("doctor: %v", r)
	}
	mustTorbpf(t, lab, "detach", "--all")
	d := startRun(t, lab, file)
	eventually(t, patience, "what was written", func() error { return sound(t, lab, lan) })
	guarded := filepath.Join(stateDir(t, lab), "data", "guarded.json")
	if _, err := os.Stat(guarded); err != nil {
		t.Errorf("torbpf run has not kept what to block: %v", err)
	}
	for range 2 {
		r := runTorbpf(t, lab, "disable")
		if r.code != 1 || !strings.Contains(r.stderr, "neither systemd nor OpenRC nor procd") || !strings.Contains(r.stderr, "`torbpf run --block-only` and `torbpf run` no more at boot") {
			t.Errorf("disable: %v", r)
		}
	}
	if _, err := os.Stat(guarded); err == nil {
		t.Error("a boot without a file would still block what that had")
	}
	d.stop(t)
}

// fakeSystemctl stands in for the service manager, which a namespace has none of,
// and returns what it was asked.
func fakeSystemctl(t *testing.T, lab *testnet.Lab) (asked func() string) {
	t.Helper()
	log := filepath.Join(lab.Dir(), "asked")
	fakeProgram(t, lab, "systemctl", `echo "$@" >>`+log+`
on=`+log+`.on
case $1 in
enable) : >$on ;;
disable) rm -f $on ;;
is-enabled) [ -e $on ] && echo enabled || { echo disabled; exit 1; } ;;
esac`)
	return func() string {
		text, err := os.ReadFile(log)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
}

// fakeProgram puts a script before all programs of that name.
func fakeProgram(t *testing.T, lab *testnet.Lab, name, script string) {
	t.Helper()
	dir := filepath.Join(lab.Dir(), "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}
