package service

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakes puts programs into a folder, which say what they are asked, and what they are told to;
// asked returns the lines so far.
type fakes struct{ dir string }

func newFakes(t *testing.T) fakes {
	t.Helper()
	f := fakes{t.TempDir()}
	t.Setenv("PATH", f.dir+":/bin:/usr/bin")
	return f
}

func (f fakes) program(t *testing.T, name, says string, code string) {
	t.Helper()
	text := "#!/bin/sh\necho \"$(basename $0) $*\" >>" + f.dir + "/asked\necho '" + says + "'\nexit " + code + "\n"
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (f fakes) asked(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, "asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// mark makes files that are a manager's.
func mark(t *testing.T, root string, m Manager) {
	t.Helper()
	for _, path := range m.marks {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWithoutAManagerThatIsSaid, whether systemctl is missing or finds nobody to ask;
// what else it says is passed on.
func TestWithoutAManagerTheNextStepIsTold(t *testing.T) {
	f, root := newFakes(t), t.TempDir()
	for _, says := range []string{
		"System has not been booted with systemd as init system (PID 1). Can\"t operate.",
		"Failed to connect to bus: Host is down", "Failed to connect to system scope bus via local transport: No such file or directory",
	} {
		f.program(t, "systemctl", says, "1")
		if _, err := find(t.Context(), root); !errors.Is(err, ErrNoManager) || strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	f.program(t, "systemctl", "No files found for torbpf.service.", "1")
	if _, err := find(t.Context(), root); !errors.Is(err, ErrNoService) || errors.Is(err, ErrNoManager) || !strings.Contains(err.Error(), "sudo make install") || !strings.Contains(err.Error(), "package torbpf") {
		t.Errorf("without the unit: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := find(t.Context(), root); !errors.Is(err, ErrNoManager) {
		t.Errorf("without systemctl: %v", err)
	}
}

// TestEachManagerIsAskedInItsWords, and told by what is there of it: where OpenRC or procd are
// at work, a systemctl that is installed as well is not asked.
func TestEachManagerIsAskedInItsWords(t *testing.T) {
	f := newFakes(t)
	for _, name := range []string{"systemctl", "rc-service", "rc-update"} {
		f.program(t, name, "", "0")
	}
	for _, c := range []struct {
		manager  Manager
		enabled  []string
		disabled []string
	}{
		{systemd, []string{"systemctl cat torbpf.service", "systemctl enable --now torbpf.service"}, []string{"systemctl disable --now torbpf.service"}},
		{openRC, []string{"rc-service --exists torbpf", "rc-update add torbpf boot", "rc-service torbpf start"}, []string{"rc-service --ifstarted torbpf stop"}},
	} {
		root := t.TempDir()
		mark(t, root, c.manager)
		if err := os.RemoveAll(filepath.Join(f.dir, "asked")); err != nil {
			t.Fatal(err)
		}
		m, err := find(t.Context(), root)
		if err != nil || m.Name != c.manager.Name {
			t.Fatalf("%s is taken for %s: %v", c.manager.Name, m.Name, err)
		}
		if err := errors.Join(m.Enable(t.Context()), m.Disable(t.Context())); err != nil {
			t.Error(err)
		}
		if got, want := f.asked(t), slices.Concat(c.enabled, c.disabled); !slices.Equal(got, want) {
			t.Errorf("%s was asked %q, want %q", m.Name, got, want)
		}
	}
}

// TestWhoStartsAtBootIsTold, by what systemd says: until the next boot alone is not enough.
func TestWhoStartsAtBootIsTold(t *testing.T) {
	f := newFakes(t)
	for _, c := range []struct {
		says, code string
		want       bool
	}{
		{"enabled", "0", true}, {"enabled-runtime", "0", false}, {"disabled", "1", false}, {"masked", "1", false},
		{"Failed to get unit file state for torbpf.service: No such file or directory", "1", false},
	} {
		f.program(t, "systemctl", c.says, c.code)
		if got, err := systemd.Enabled(t.Context()); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", c.says, got, err)
		}
	}
	for _, m := range []Manager{openRC, procd} { // which are not here
		if got, err := m.Enabled(t.Context()); got || m.Name == openRC.Name && err != nil {
			t.Errorf("%s: %v, %v", m.Name, got, err)
		}
	}
}

// TestProcdIsFound by what OpenWrt has. Its script is not here, and where it is said so.
func TestProcdIsFound(t *testing.T) {
	root := t.TempDir()
	mark(t, root, procd)
	if !procd.isHere(root) || openRC.isHere(root) || procd.isHere(t.TempDir()) {
		t.Error("procd is not told from others")
	}
	if _, err := find(t.Context(), root); err == nil || !strings.Contains(err.Error(), "/etc/init.d/torbpf") {
		t.Errorf("without its script: %v", err)
	}
}
