package loader

import (
	"os"
	"testing"
)

// TestConntrackIsLoadedWhenAsked: after that this namespace has its table.
func TestConntrackIsLoadedWhenAsked(t *testing.T) {
	if err := loadConntrack(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_count"); err != nil {
		t.Error(err)
	}
}
