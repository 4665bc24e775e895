package main

import (
	"strings"
	"testing"

	"github.com/torbpf/torbpf/bench/rig"
)

// TestConfigurationsAreChosen by name; the sender alone is always one of them.
func TestConfigurationsAreChosen(t *testing.T) {
	all := rig.Configs("torbpf")
	if got, err := chosen(all, nil); len(got) != len(all) || err != nil {
		t.Errorf("without names: %d of %d, %v", len(got), len(all), err)
	}
	got, err := chosen(rig.Configs("torbpf"), []string{rig.Flowtable, rig.NFT})
	var names []string
	for _, c := range got {
		names = append(names, c.Name)
	}
	if want := "floor nft flowtable"; err != nil || strings.Join(names, " ") != want {
		t.Errorf("chosen: %v, %v, want %s", names, err, want)
	}
	if _, err := chosen(all, []string{"none"}); err == nil || !strings.Contains(err.Error(), `"none"; there are fast, `) {
		t.Errorf("of a name that is none: %v", err)
	}
}
