package config

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFilesAreReplacedWholeOrNotAtAll, and are root's alone to read, be they new or not.
func TestFilesAreReplacedWholeOrNotAtAll(t *testing.T) {
	path := write(t, map[string]string{"torbpf.toml": "interfaces = [\"eth1\"]"})
	saved := SavedFile(path)
	save := func(rules string) error {
		return Save(saved, func(s *Saved) { s.Rules = rulesOf(t, rules) })
	}
	check := func(want string) {
		t.Helper()
		cfg, err := Load(path)
		if err != nil || words(cfg.Rules) != want {
			t.Errorf("saved are %s, %v, want %s", words(cfg.Rules), err, want)
		}
		info, err := os.Stat(saved)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v, %v, want one that root alone reads", saved, info, err)
		}
		if left, err := filepath.Glob(filepath.Join(DropIns(path), "*.new")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
	for _, rules := range []string{"10.0.0.0/8", "10.0.0.0/8=tor"} {
		if err := save(rules); err != nil {
			t.Fatal(err)
		}
		check(rules)
	}
	if err := os.Mkdir(saved+".new", 0o700); err != nil { // nothing can be written there
		t.Fatal(err)
	}
	if err := save("11.0.0.0/8"); err == nil {
		t.Error("what could not be written is said to be saved")
	}
	if err := os.Remove(saved + ".new"); err != nil {
		t.Fatal(err)
	}
	check("10.0.0.0/8=tor")
}
