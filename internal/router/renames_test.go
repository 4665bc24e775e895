package router

import (
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// TestRenamesAreFollowed: the interface that is attached stays a LAN under its new
// name, also where another one has taken the old one.
func TestRenamesAreFollowed(t *testing.T) {
	for _, c := range []struct {
		name  string
		links []plan.Link
		want  []string
	}{
		{"as it was", []plan.Link{{Index: 3, Name: "eth1"}}, []string{"eth1"}},
		{"renamed", []plan.Link{{Index: 3, Name: "lan0"}}, []string{"lan0"}},
		{"gone", nil, []string{"eth1"}},
		{"created anew", []plan.Link{{Index: 4, Name: "eth1"}}, []string{"eth1"}},
		{"renamed, and another by its name", []plan.Link{{Index: 3, Name: "eth9"}, {Index: 4, Name: "eth1"}}, []string{"eth1", "eth9"}},
	} {
		s := &State{Config: config.Config{Interfaces: []string{"eth1"}}, Links: map[string]int{"eth1": 3}}
		s.followRenames(plan.Host{Links: c.links})
		if !slices.Equal(s.Config.Interfaces, c.want) {
			t.Errorf("%s: %v, want %v", c.name, s.Config.Interfaces, c.want)
		}
	}
}
