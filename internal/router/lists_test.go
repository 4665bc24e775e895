package router

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/lists"
)

// writeList writes a list by rename.
func writeList(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path+".new", []byte(text), 0o600))
	must(t, os.Rename(path+".new", path))
}

func listRule(path string) config.Rule {
	return config.Direct(config.Entry{Kind: config.KindList, List: path})
}

// TestAListIsTriedOnce: until its file changes again, or it goes and comes back.
func TestAListIsTriedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.txt")
	w := (&Router{}).WatchLists()
	s := &State{}
	look := func(wantChanged, wantProblem bool) {
		t.Helper()
		changed, problems := w.changed(s, []wantedList{{path: path}})
		if (len(changed) > 0) != wantChanged || (len(problems) > 0) != wantProblem {
			t.Errorf("changed %v, problems %v", changed, problems)
		}
	}
	look(false, true)
	look(false, false)
	writeList(t, path, "nonsense\n")
	look(true, false)
	look(false, false)
	writeList(t, path, "203.0.113.0/24\n")
	look(true, false)
	stamp, err := lists.StampAt(path)
	must(t, err)
	s.Lists = []ListState{{Path: path, Stamp: stamp}}
	w = (&Router{}).WatchLists() // that of another daemon
	look(false, false)
	must(t, os.Remove(path))
	look(false, true)
	writeList(t, path, "203.0.113.0/24\n")
	look(true, false)
}

// TestAFailedChangeKeepsTheLists: whichever step fails, the maps of before are in force
// again, though the file is another by now; and detach leaves no copy of it.
func TestAFailedChangeKeepsTheLists(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Dir(dir)} { // tor keeps its data below
		must(t, os.Chmod(path, 0o711))
	}
	newRouter := func(after func(string) error) *Router {
		r := newTestRouter(t, after)
		r.data = filepath.Join(dir, "data")
		return r
	}
	path := filepath.Join(dir, "list.txt")
	edit := basic(t)
	attach := func(r *Router) error {
		_, err := r.Attach(t.Context(), func(c *config.Config) {
			edit(c)
			c.Rules = append(c.Rules, listRule(path))
		}, AttachOptions{NoWait: true})
		return err
	}
	writeList(t, path, "203.0.113.0/24\n")
	r := newRouter(never)
	must(t, attach(r))
	before := inForce(t, r)
	writeList(t, path, "198.51.100.0/24\n")
	for _, step := range StepNames() {
		if err := attach(newRouter(failAfter(step))); !errors.Is(err, errInjected) {
			t.Errorf("after %s: %v", step, err)
		}
		checkSame(t, before, inForce(t, r))
		checkListed(t, r, "203.0.113.9", "198.51.100.9")
		if t.Failed() {
			t.Fatalf("after a failure of %s", step)
		}
	}
	// So is the copy, for when another list comes.
	other := filepath.Join(dir, "other.txt")
	writeList(t, path, "nonsense\n")
	writeList(t, other, "192.0.2.0/24\n")
	_, warnings, err := r.Exclude(t.Context(), false, config.Rules{listRule(other)}, ExcludeOptions{})
	if err != nil || !strings.Contains(strings.Join(warnings, "\n"), path+": line 1: ") {
		t.Errorf("another list: %v, %v", warnings, err)
	}
	checkListed(t, r, "203.0.113.9", "198.51.100.9")
	_, _, err = r.Exclude(t.Context(), true, config.Rules{listRule(other)}, ExcludeOptions{})
	must(t, err)

	writeList(t, path, "198.51.100.0/24\n")
	must(t, attach(r))
	checkListed(t, r, "198.51.100.9", "203.0.113.9")
	if copies, err := os.ReadDir(r.copiesDir()); err != nil || len(copies) != 1 {
		t.Errorf("copies: %v, %v", copies, err)
	}
	must(t, r.DetachAll(t.Context()))
	if _, err := os.Stat(r.copiesDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("copies are left: %v", err)
	}
}

// checkListed wants one address in the lists in force and another not.
func checkListed(t *testing.T, r *Router, in, out string) {
	t.Helper()
	s, err := r.loadState()
	must(t, err)
	held, err := r.heldLists(s)
	must(t, err)
	defer held.Close()
	if !held.Has(netip.MustParseAddr(in)) || held.Has(netip.MustParseAddr(out)) {
		t.Errorf("in force: %s %t, %s %t", in, held.Has(netip.MustParseAddr(in)), out, held.Has(netip.MustParseAddr(out)))
	}
}
