package router

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestSocketsForRootAreBornSo: nobody changes their mode later on.
func TestSocketsForRootAreBornSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	defer syscall.Umask(syscall.Umask(0))
	l, err := listenForRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("the socket has mode %o", mode)
	}
}
