package router

import (
	"os"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// TestATorNamesNobodyElsesProcess to have its connections ended; of a system tor nobody knows better.
func TestATorNamesNobodyElsesProcess(t *testing.T) {
	r, s := &Router{dir: t.TempDir()}, &State{}
	if err := r.checkPID(s, 0, os.Getpid()); err == nil {
		t.Error("a process that torbpf has not started is taken for its tor")
	}
	s.Config.Tor.Mode = config.TorSystem
	if err := r.checkPID(s, 0, os.Getpid()); err != nil {
		t.Errorf("of a system tor: %v", err)
	}
}
