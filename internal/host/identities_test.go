package host

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
)

func TestResolveFindsWhatIsThere(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	link := program + "-link"
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	var rules config.Rules
	for _, r := range []struct {
		kind  config.Kind
		match string
	}{
		{config.KindUser, "root"}, {config.KindUser, "4711"}, {config.KindUser, "nobody-has-this-name"},
		{config.KindProgram, program}, {config.KindProgram, link}, {config.KindProgram, program + "/below"}, {config.KindProgram, "/nowhere"},
		{config.KindCgroup, "/"}, {config.KindCgroup, "/no-such-group"},
	} {
		entry, err := config.ParseEntry(r.kind, r.match)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, config.Direct(entry))
	}
	found, err := Resolve(rules)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]uint32{"root": 0, "4711": 4711}; !maps.Equal(found.Users, want) {
		t.Errorf("users %v, want %v", found.Users, want)
	}
	if names := slices.Sorted(maps.Keys(found.Programs)); !slices.Equal(names, []string{program, link}) || found.Programs[program] != found.Programs[link] {
		t.Errorf("programs %v", found.Programs)
	}
	if _, err := cgroup.Root(); err == nil && len(found.Cgroups) != 1 {
		t.Errorf("control groups %v", found.Cgroups)
	}
}
