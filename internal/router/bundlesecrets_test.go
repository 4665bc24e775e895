package router

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestBridgeWordsAreWhatTellsABridge: each setting, the address with its port in both notations.
func TestBridgeWordsAreWhatTellsABridge(t *testing.T) {
	torrc := filepath.Join(t.TempDir(), "torrc")
	if err := os.WriteFile(torrc, []byte("SocksPort 0\nbridge webtunnel [2001:0db8::7]:443 x=1 unheardof=a-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := torrcBridges(torrc)
	if len(lines) != 1 {
		t.Fatalf("bridges of a torrc: %q", lines)
	}
	want := []string{"[2001:db8::7]:443", "[2001:0db8::7]:443", "x=1", "unheardof=a-secret", "a-secret"}
	if got := bridgeWords(lines[0]); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
