package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/lists"
)

// ListWatch puts lists in force anew when their files change. It remembers what it has
// tried, so a broken file is read and told of once.
type ListWatch struct {
	router *Router
	tried  map[string]lists.Stamp // by path
	gone   map[string]bool
	next   time.Time // not before, since it has failed
}

// listAgain is after how long lists are tried again that could be read, but not put in force.
const listAgain = 30 * time.Second

// WatchLists returns one that has tried nothing.
func (r *Router) WatchLists() *ListWatch {
	return &ListWatch{router: r, tried: make(map[string]lists.Stamp), gone: make(map[string]bool)}
}

// Listed is what one call of ListWatch.Look did.
type Listed struct {
	Changed  []string // paths of lists that have been put in force
	Problems []error  // lists that cannot be read, and have not been told of before
	Took     time.Duration
}

// Look looks at the files of the lists in force, and at those of lists that could not be
// read before. What has changed is read and written into maps of its own without a lock, as
// that takes seconds; only to exchange them it locks. A list that cannot be used changes
// nothing.
func (w *ListWatch) Look(ctx context.Context) (Listed, error) {
	var out Listed
	s, err := w.router.loadState()
	if err != nil || s == nil || s.Blocked || time.Now().Before(w.next) {
		return out, err
	}
	active, _, err := s.activeRules()
	if err != nil {
		return out, err
	}
	changed, problems := w.changed(s, wantedOf(active))
	out.Problems = problems
	if len(changed) == 0 {
		return out, nil
	}
	begin := time.Now()
	defer debug.FreeOSMemory() // what was read takes many times what this process has else
	held, err := w.router.heldLists(s)
	if err != nil {
		return out, err
	}
	defer held.Close()
	read, err := w.router.readLists(s, active, held, listFiles{keep: true})
	if err != nil {
		return out, err
	}
	defer read.close()
	out.Problems = append(out.Problems, read.problems...)
	if out.Changed, err = w.router.exchangeLists(ctx, read); err != nil {
		clear(w.tried)
		w.next = time.Now().Add(listAgain)
	}
	out.Took = time.Since(begin)
	return out, err
}

// changed returns the lists of which the file is neither the one in force nor one that was
// tried, and tells of those that have gone.
func (w *ListWatch) changed(s *State, wanted []wantedList) (changed []string, problems []error) {
	for _, l := range wanted {
		old := s.listState(l)
		stamp, err := lists.StampAt(l.path)
		if err != nil {
			if !w.gone[l.path] || !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, gone(err, l, old))
			}
			w.gone[l.path] = true
			delete(w.tried, l.path)
			continue
		}
		delete(w.gone, l.path)
		if old != nil && old.Stamp == stamp || w.tried[l.path] == stamp {
			continue
		}
		w.tried[l.path] = stamp
		changed = append(changed, l.path)
	}
	return changed, problems
}

func gone(err error, l wantedList, old *ListState) error {
	if old == nil {
		return fmt.Errorf("%w; what is in %s is Tor's", err, l.path)
	}
	return stays(err, old)
}

// exchangeLists puts lists in force that have been read, unless others are wanted by now.
// It returns the paths of those that are others than before.
func (r *Router) exchangeLists(ctx context.Context, read *readLists) ([]string, error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, err := r.loadState()
	if err != nil || before == nil || before.Blocked {
		return nil, err
	}
	active, _, err := before.activeRules()
	if err != nil || !slices.Equal(wantedOf(active), read.wanted) {
		return nil, err // the next look is for those
	}
	var changed []string
	for _, l := range read.states {
		if old := before.listState(l.as()); old == nil || old.Digest != l.Digest {
			changed = append(changed, l.Path)
		}
	}
	if len(changed) > 0 {
		return changed, r.rebringLists(ctx, before, nil, listFiles{keep: true, read: read})
	}
	before.Lists = keepEnded(read.states, before.Lists)
	return nil, r.saveState(before) // other files with the same in them
}

// keepEnded adds to lists those that the maps in force hold beside.
func keepEnded(states, held []ListState) []ListState {
	out := slices.Clone(states)
	for _, l := range held {
		if !slices.ContainsFunc(states, func(s ListState) bool { return s.as() == l.as() }) {
			out = append(out, l)
		}
	}
	return out
}

// ListStatus is a list that a rule names.
type ListStatus struct {
	Path    string     `json:"path"`
	Entries int        `json:"entries"`
	Read    *time.Time `json:"read"` // null: it is not in force, and what is in it is Tor's
}

// Lists tells of the lists that rules name what is in force of them.
func (r *Router) Lists() ([]ListStatus, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	return s.listStatus()
}

func (s *State) listStatus() ([]ListStatus, error) {
	out := []ListStatus{} // [] in JSON
	active, _, err := s.activeRules()
	for _, w := range wantedOf(active) {
		one := ListStatus{Path: w.path}
		if l := s.listState(w); l != nil {
			one.Entries, one.Read = l.Entries, &l.Read
		}
		out = append(out, one)
	}
	return out, err
}

// listProblems says of which lists the file is not what is in force, and why.
func (s *State) listProblems() ([]string, error) {
	out := []string{}
	active, _, err := s.activeRules()
	for _, w := range wantedOf(active) {
		old := s.listState(w)
		now := &lists.List{Path: w.path}
		if old != nil {
			now.Stamp = old.Stamp
		}
		changed, err := now.Changed()
		if changed {
			now, err = lists.Read(w.path)
		}
		switch {
		case err != nil:
			out = append(out, gone(err, w, old).Error())
		case old == nil:
			out = append(out, fmt.Sprintf("list %s is not in force yet: what is in it is Tor's", w.path))
		case changed && now.Digest != old.Digest:
			out = append(out, fmt.Sprintf("list %s has changed since it was read on %s", w.path, old.Read.Local().Format(time.DateTime)))
		}
	}
	return out, err
}
