package router

import (
	"slices"
	"testing"

	"github.com/torbpf/torbpf/nft"
)

// TestOfSeveralTorsOneIsReached by a device of a LAN whose program judges it; of one that is not attached yet, all.
func TestOfSeveralTorsOneIsReached(t *testing.T) {
	probes := []nft.Probe{{Name: "tcp4"}, {Name: "tcp6"}, {Name: "tcp4 of tor 1"}, {Name: "tcp6 of tor 1"}, {Name: "udp4"}}
	arrived := map[string]bool{"tcp4 of tor 1": true, "udp4": true}
	if got, want := lostProbes(probes, arrived, true), []string{"tcp6", "tcp6 of tor 1"}; !slices.Equal(got, want) {
		t.Errorf("judged: %q are lost, want %q", got, want)
	}
	if got, want := lostProbes(probes, arrived, false), []string{"tcp4", "tcp6", "tcp6 of tor 1"}; !slices.Equal(got, want) {
		t.Errorf("not judged: %q are lost, want %q", got, want)
	}
}
