package e2e

import (
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestCheckTellsWhoIsServed: while Tor is not ready clients are refused, which check tells
// by its exit code and status in words. The layers by themselves are judged on demand.
func TestCheckTellsWhoIsServed(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, step := range []said{
		{"check", 1, "clients are refused"},
		{"check", 1, "all layers stand\nTor is not ready ("},
		{"check --json", 1, `"ready": false`},
		{"check --layers", 0, "Tor is not ready ("},
		{"status", 0, "not ready, so clients are refused"},
		{"status --json", 0, `"ready": false`},
		{"exclude add --domain bank.example --resolver 192.0.2.53", 0, "added"},
		{"status", 0, "192.0.2.53"},
		{"exclude list", 0, "asked of 192.0.2.53, in clear"},
	} {
		step.check(t, lab)
	}
}
