package service

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWithoutSystemdTheNextStepIsTold, whether systemctl is missing or finds nobody to ask;
// what else it says is passed on.
func TestWithoutSystemdTheNextStepIsTold(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	fake := func(says string) {
		t.Helper()
		text := "#!/bin/sh\necho '" + says + "'\nexit 1\n"
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, says := range []string{
		"System has not been booted with systemd as init system (PID 1). Can\"t operate.",
		"Failed to connect to bus: Host is down", "Failed to connect to system scope bus via local transport: No such file or directory",
	} {
		fake(says)
		if err := Find(t.Context()); !errors.Is(err, ErrNoManager) || !strings.Contains(err.Error(), "start `torbpf run`") || strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	fake("No files found for torbpf.service.")
	if err := Find(t.Context()); errors.Is(err, ErrNoManager) || err == nil || !strings.Contains(err.Error(), "sudo make install") {
		t.Errorf("without the unit: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := Find(t.Context()); !errors.Is(err, ErrNoManager) {
		t.Errorf("without systemctl: %v", err)
	}
}
