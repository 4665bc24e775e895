package leaktest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func containsWord(text, word string) bool { return slices.Contains(strings.Fields(text), word) }

// removeCgroup moves what attach has started there (the sentry) out, and removes the
// cgroup.
func removeCgroup(b *Bench, dir string) error {
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(pids)) {
		// One that has ended meanwhile need not move.
		_ = os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"), []byte(pid), 0o644)
	}
	return await(b.ctx, "the cgroup to be empty", func() error { return os.Remove(dir) })
}
