package router

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

// lookAt looks at a list as ListWatch.Look does, but puts nothing in force.
func lookAt(w *ListWatch, s *State, path string) (changed bool, problems []error) {
	stamps, problems := w.changed(s, []wantedList{{path: path}})
	var unread []unreadList
	for path := range stamps {
		if _, err := lists.Read(path); err != nil {
			unread = append(unread, unreadList{path, err})
		}
	}
	return len(stamps) > 0, append(problems, w.noteRead(stamps, unread)...)
}

// TestABrokenListIsTriedOnce: until its file changes again, or it goes and comes back. One
// that holds a list is tried until it is in force.
func TestABrokenListIsTriedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.txt")
	w := (&Router{}).WatchLists()
	s := &State{}
	look := func(what string, wantChanged, wantProblem bool) {
		t.Helper()
		changed, problems := lookAt(w, s, path)
		if changed != wantChanged || (len(problems) > 0) != wantProblem {
			t.Errorf("%s: changed %t, problems %v", what, changed, problems)
		}
	}
	look("none", false, true)
	look("none, again", false, false)
	writeList(t, path, "nonsense\n")
	look("broken", true, true)
	look("broken, again", false, false)
	writeList(t, path, "nonsense\n")
	look("another that is broken alike", true, true)
	writeList(t, path, "203.0.113.0/24\n")
	look("whole", true, false)
	look("whole, and not put in force", true, false)
	stamp, err := lists.StampAt(path)
	must(t, err)
	s.Lists = []ListState{{Path: path, Stamp: stamp}}
	look("in force", false, false)
	must(t, os.Remove(path))
	look("gone", false, true)
	look("gone, again", false, false)
	writeList(t, path, "203.0.113.0/24\n")
	look("back", true, false)
}

// TestAListThatCannotBeReadIsToldOfOnce, and tried again: nothing may be wrong with what is
// in it.
func TestAListThatCannotBeReadIsToldOfOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list.txt")
	writeList(t, file, "203.0.113.0/24\n")
	w := (&Router{}).WatchLists()
	for i := range 3 {
		if changed, problems := lookAt(w, &State{}, filepath.Join(file, "list.txt")); changed || (len(problems) > 0) != (i == 0) {
			t.Errorf("look %d at a list below a file: changed %t, problems %v", i, changed, problems)
		}
		stamps, _ := w.changed(&State{}, []wantedList{{path: file}})
		if problems := w.noteRead(stamps, []unreadList{{file, syscall.EIO}}); len(stamps) == 0 || (len(problems) > 0) != (i == 0) {
			t.Errorf("look %d at a list on a broken disk: changed %v, problems %v", i, stamps, problems)
		}
	}
	if !w.next.After(time.Now()) {
		t.Error("a list on a broken disk is read again at each look")
	}
}

// TestADeclinedExchangeIsTriedAgain: another list that ends while this one is read keeps it
// from being put in force then, but not for good.
func TestADeclinedExchangeIsTriedAgain(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	paths, r := attachLists(t, "203.0.113.0/24\n", "192.0.2.0/24\n")
	w := r.WatchLists()
	writeList(t, paths[0], "198.51.100.0/24\n")
	whenRead(t, r, func(nth int) {
		if nth > 1 {
			return
		}
		s, err := r.loadState()
		must(t, err)
		i := slices.IndexFunc(s.Config.Rules, func(rule config.Rule) bool { return rule.List == paths[1] })
		s.Config.Rules[i].Until = time.Now().Add(-time.Second) // the clock was put right
		must(t, r.saveState(s))
	})
	if listed, err := w.Look(t.Context()); err != nil || len(listed.Changed) > 0 {
		t.Errorf("the exchange that is declined: %+v, %v", listed, err)
	}
	checkListed(t, r, "203.0.113.9", "198.51.100.9")
	if listed, err := w.Look(t.Context()); err != nil || !slices.Equal(listed.Changed, paths[:1]) {
		t.Errorf("the next look: %+v, %v", listed, err)
	}
	checkListed(t, r, "198.51.100.9", "203.0.113.9")
}

// TestListsAreReadWithoutTheLock: not even where somebody has changed them since they were
// read are repairs kept waiting.
func TestListsAreReadWithoutTheLock(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	paths, r := attachLists(t, "203.0.113.0/24\n")
	var more []string
	for _, text := range []string{"198.51.100.0/24\n", "192.0.2.0/24\n"} {
		more = append(more, filepath.Join(filepath.Dir(paths[0]), fmt.Sprintf("more%d.txt", len(more))))
		writeList(t, more[len(more)-1], text)
	}
	reads := 0
	whenRead(t, r, func(nth int) {
		reads = nth
		unlocked, err := lockFile(r.dir + ".lock")
		if err != nil {
			t.Errorf("list %d is read under the lock: %v", nth, err)
			return
		}
		must(t, unlocked.Close())
		if nth == 1 {
			_, _, err := listRouter(t, r.data, never).Exclude(t.Context(), false, config.Rules{listRule(more[1])}, ExcludeOptions{})
			must(t, err)
		}
	})
	_, _, err := r.Exclude(t.Context(), false, config.Rules{listRule(more[0])}, ExcludeOptions{})
	must(t, err)
	if reads != 2+3 {
		t.Errorf("lists were read %d times, want two of them once and then all three", reads)
	}
	checkListed(t, r, "198.51.100.9", "8.8.8.8")
	checkListed(t, r, "192.0.2.9", "8.8.8.8")
}

// TestAnExchangeThatFailedIsNotTakenForDone: though the file is again what it was before,
// the maps of the failed exchange do not stay. Who looks sees them, too.
func TestAnExchangeThatFailedIsNotTakenForDone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	paths, r := attachLists(t, "203.0.113.0/24\n")
	failed := func() *ListWatch {
		w := listRouter(t, r.data, failAfter(stepPrograms)).WatchLists()
		writeList(t, paths[0], "198.51.100.0/24\n")
		if _, err := w.Look(t.Context()); !errors.Is(err, errInjected) {
			t.Errorf("the exchange that is to fail: %v", err)
		}
		writeList(t, paths[0], "203.0.113.0/24\n")
		return w
	}
	w := failed()
	w.router, w.next = r, time.Time{}
	if listed, err := w.Look(t.Context()); err != nil || !slices.Equal(listed.Changed, paths) {
		t.Errorf("the next look: %+v, %v", listed, err)
	}
	checkListed(t, r, "203.0.113.9", "198.51.100.9")

	failed()
	m, err := r.Mend(t.Context(), true, func([]string) bool { return true })
	if err != nil || !slices.ContainsFunc(m.Found, func(text string) bool { return strings.Contains(text, "lists in force") }) {
		t.Errorf("mended: %+v, %v", m, err)
	}
	checkListed(t, r, "203.0.113.9", "198.51.100.9")
}

// attachLists attaches with lists of these texts, and returns their paths and the Router.
func attachLists(t *testing.T, texts ...string) ([]string, *Router) {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Dir(dir)} { // tor keeps its data below
		must(t, os.Chmod(path, 0o711))
	}
	r := listRouter(t, filepath.Join(dir, "data"), never)
	edit := basic(t)
	var paths []string
	for i, text := range texts {
		path := filepath.Join(dir, fmt.Sprintf("list%d.txt", i))
		writeList(t, path, text)
		paths = append(paths, path)
	}
	_, err := r.Attach(t.Context(), func(c *config.Config) {
		edit(c)
		for _, path := range paths {
			c.Rules = append(c.Rules, listRule(path))
		}
	}, AttachOptions{NoWait: true})
	must(t, err)
	return paths, r
}

// listRouter is newTestRouter with a place of its own for copies.
func listRouter(t *testing.T, data string, after func(string) error) *Router {
	t.Helper()
	r := newTestRouter(t, after)
	r.data = data
	return r
}

// whenRead has something done each time that a Router has read a list, the nth one. There is no place for a copy, which the Router says then.
func whenRead(t *testing.T, r *Router, do func(nth int)) {
	t.Helper()
	must(t, os.RemoveAll(r.copiesDir()))
	must(t, os.WriteFile(r.copiesDir(), nil, 0o600))
	times := 0
	r.notify = func(line string) {
		if strings.HasPrefix(line, "warning: should list ") {
			times++
			do(times)
		}
	}
}

// TestAFailedChangeKeepsTheLists: whichever step fails, the maps of before are in force
// again, though the file is another by now; and detach leaves no copy of it.
func TestAFailedChangeKeepsTheLists(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	paths, r := attachLists(t, "203.0.113.0/24\n")
	path := paths[0]
	attach := func(r *Router) error {
		_, err := r.Attach(t.Context(), func(*config.Config) {}, AttachOptions{NoWait: true})
		return err
	}
	before := inForce(t, r)
	writeList(t, path, "198.51.100.0/24\n")
	for _, step := range StepNames() {
		if err := attach(listRouter(t, r.data, failAfter(step))); !errors.Is(err, errInjected) {
			t.Errorf("after %s: %v", step, err)
		}
		checkSame(t, before, inForce(t, r))
		checkListed(t, r, "203.0.113.9", "198.51.100.9")
		if t.Failed() {
			t.Fatalf("after a failure of %s", step)
		}
	}
	// So is the copy, for when another list comes.
	other := filepath.Join(filepath.Dir(path), "other.txt")
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
