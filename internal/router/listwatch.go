package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/lists"
)

// ListWatch puts lists in force anew when their files change. Of a file that holds no list
// it remembers that, so it is read and told of once. Nothing else is remembered: whatever
// kept a list from being put in force, the next look tries again.
type ListWatch struct {
	router *Router
	bad    map[string]badList // by path
	next   time.Time          // not before, since it has failed
}

// badList is what was wrong with a file when it was looked at last.
type badList struct {
	stamp   lists.Stamp // zero: there was nothing to look at
	problem string
	broken  bool // and will be until the file is another
}

// listAgain is after how long lists are tried again that could not be read, though nothing
// is wrong with what is in them, or could be read, but not put in force.
const listAgain = 30 * time.Second

// WatchLists returns one that has looked at nothing.
func (r *Router) WatchLists() *ListWatch {
	return &ListWatch{router: r, bad: make(map[string]badList)}
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
	read, err := w.read(s, active)
	if err == nil {
		defer read.close()
		out.Problems = append(out.Problems, w.noteRead(changed, read.problems)...)
		out.Changed, err = w.router.exchangeLists(ctx, read)
	}
	if err != nil {
		w.next = time.Now().Add(listAgain)
	}
	out.Took = time.Since(begin)
	return out, err
}

// read reads all lists, and fills maps where those in force do not hold the same.
func (w *ListWatch) read(s *State, active config.Rules) (*readLists, error) {
	held, err := w.router.heldLists(s)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	return w.router.readLists(s, active, held, listFiles{keep: true})
}

// changed returns, by their paths, the lists of which the file is neither the one in force
// nor one that is known to be broken, and tells of those that cannot be looked at.
func (w *ListWatch) changed(s *State, wanted []wantedList) (changed map[string]lists.Stamp, problems []error) {
	changed = make(map[string]lists.Stamp)
	for _, l := range wanted {
		old, known := s.listState(l), w.bad[l.path]
		stamp, err := lists.StampAt(l.path)
		switch {
		case err != nil:
			problems = append(problems, w.note(l.path, lists.Stamp{}, gone(err, l, old))...)
		case old != nil && old.Stamp == stamp:
			delete(w.bad, l.path)
		case known.broken && known.stamp == stamp:
		default:
			changed[l.path] = stamp
		}
	}
	return changed, problems
}

// noteRead notes what came of reading lists that had changed, and returns what has not been
// told of. Of the others there is nothing new.
func (w *ListWatch) noteRead(changed map[string]lists.Stamp, unread []unreadList) (problems []error) {
	for path := range changed {
		if !slices.ContainsFunc(unread, func(l unreadList) bool { return l.path == path }) {
			delete(w.bad, path)
		}
	}
	for _, l := range unread {
		stamp, looked := changed[l.path]
		if !looked {
			continue
		}
		problems = append(problems, w.note(l.path, stamp, l.problem)...)
		if !w.bad[l.path].broken && !errors.Is(l.problem, fs.ErrNotExist) { // of one that is gone the next look tells
			w.next = time.Now().Add(listAgain)
		}
	}
	return problems
}

// note remembers what is wrong with a list, and returns it unless it was so before.
func (w *ListWatch) note(path string, stamp lists.Stamp, problem error) []error {
	now := badList{stamp, problem.Error(), errors.Is(problem, config.ErrInvalid)}
	before := w.bad[path]
	w.bad[path] = now
	if now == before {
		return nil
	}
	return []error{problem}
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
	states := keepEnded(read.states, before.Lists)
	if len(changed) == 0 {
		holds, err := r.holdsLists(before.Config.Clsact, states)
		if err != nil {
			return nil, err
		}
		if holds { // other files with the same in them
			before.Lists = states
			return nil, r.saveState(before)
		}
		// An exchange that failed half-way has left others in force.
		for _, l := range read.states {
			changed = append(changed, l.Path)
		}
	}
	err = r.rebringLists(ctx, before, nil, listFiles{keep: true, read: read, ahead: true})
	if errors.Is(err, errListsMoved) {
		return nil, nil // likewise
	}
	return changed, err
}

// holdsLists tells whether the maps in force are those of lists, and no others.
func (r *Router) holdsLists(clsact bool, states []ListState) (bool, error) {
	d, err := r.datapath(clsact)
	if err != nil {
		return false, err
	}
	held, err := d.OpenLists()
	if err != nil {
		return false, err
	}
	defer held.Close()
	if len(states) == 0 {
		filled, err := held.Filled()
		return !filled, err
	}
	return held.Holds(listsKey(states))
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
