package api

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestWithoutRunTheNextStepIsTold, whether its socket is missing or was left behind.
func TestWithoutRunTheNextStepIsTold(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{filepath.Join(t.TempDir(), "none.sock"), left} {
		err := Ask(t.Context(), socket, "POST", "/v1/page/login", nil)
		if err == nil || !strings.Contains(err.Error(), "not running: sudo torbpf enable") || strings.Contains(err.Error(), "dial") {
			t.Errorf("at %s: %v", socket, err)
		}
	}
}
