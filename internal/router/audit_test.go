package router

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// TestTheAuditIsBounded: one older file is kept.
func TestTheAuditIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "audit.log")
	line := strings.Repeat("x", 64<<10)
	for range 3 * auditMax / len(line) {
		if err := appendLine(path, line); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{path, path + ".1"} {
		if info, err := os.Stat(file); err != nil || info.Size() > auditMax+int64(len(line))+1 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("there are %v, %v", entries, err)
	}
}

// TestACommentThatATerminalObeysIsRefused, whoever gives it.
func TestACommentThatATerminalObeysIsRefused(t *testing.T) {
	if _, err := given(config.Rules{{Comment: "\x1b[2J"}}, ExcludeOptions{}); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("it says %v", err)
	}
}
