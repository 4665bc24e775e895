package router

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestALogThatIsEmptiedHasNoHole: a child goes on at its end, wherever that is.
func TestALogThatIsEmptiedHasNoHole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sentry.log")
	if err := os.WriteFile(path, []byte("of the one before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := newLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo first; read go; echo second; cat >/dev/null")
	cmd.Stdout = log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitText := func(want string) {
		t.Helper()
		for begin := time.Now(); ; {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(text) == want {
				return
			}
			if len(text) > len(want) || time.Since(begin) > 20*time.Second {
				t.Fatalf("the log is %q, want %q", text, want)
			}
		}
	}
	awaitText("first\n")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	awaitText("second\n")
	again, err := newLog(path) // of another one, while this one ends
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, f := range []*os.File{again, log} {
		if _, err := f.WriteString("last\n"); err != nil {
			t.Fatal(err)
		}
	}
	awaitText("last\nlast\n")
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
