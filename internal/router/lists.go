package router

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/lists"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// ListState is a list as the maps in force hold it.
type ListState struct {
	Path    string        `json:"path"`
	Entries int           `json:"entries"` // lines with a prefix
	Digest  string        `json:"digest"`  // that of internal/lists
	Read    time.Time     `json:"read"`
	Stamp   lists.Stamp   `json:"stamp"`             // of the file then
	Ends    time.Duration `json:"ends_ns,omitempty"` // since boot; 0: never
}

// wantedList is a list that a rule names.
type wantedList struct {
	path string
	ends time.Duration
}

func (l ListState) as() wantedList { return wantedList{l.Path, l.Ends} }

// wantedOf returns the lists that rules name.
func wantedOf(rules config.Rules) []wantedList {
	var out []wantedList
	for _, r := range rules.Of(config.KindList) {
		out = append(out, wantedList{r.List, r.Ends})
	}
	return out
}

func listPaths(rules config.Rules) []string {
	var paths []string
	for _, l := range wantedOf(rules) {
		paths = append(paths, l.path)
	}
	return paths
}

// listState returns what is in force of a list, nil for nothing.
func (s *State) listState(l wantedList) *ListState {
	i := slices.IndexFunc(s.Lists, func(have ListState) bool { return have.as() == l })
	if i < 0 {
		return nil
	}
	return &s.Lists[i]
}

// plannedLists are the lists that rules name and that could be read, as a plan has them.
func (s *State) plannedLists(rules config.Rules) []plan.List {
	var out []plan.List
	for _, w := range wantedOf(rules) {
		if l := s.listState(w); l != nil {
			out = append(out, plan.List{Path: l.Path, Digest: l.Digest, Ends: l.Ends})
		}
	}
	return out
}

// listFiles says how a job looks at the files of lists. Unless a list comes or goes it
// does not look at them: the maps in force are handed on, which takes no time.
type listFiles struct {
	// strict are the paths of which the file has to be in order, and is read again if it
	// has changed. One that is gone is only warned of where an old one is in force.
	strict []string
	// keep has no list that cannot be read fail the job: the old one stays, and one that
	// was never read is left out, so what is in it is Tor's.
	keep  bool
	later bool       // what would have to be read is left out: ListWatch reads it
	read  *readLists // read beforehand, for whoever does not want to wait under the lock
	// ahead has what would have to be read now fail the job with errListsMoved: it is to be
	// read beforehand.
	ahead bool
}

// errListsMoved ends a job for which lists have to be read again, before the lock is taken.
var errListsMoved = errors.New("other lists are in force than when they were read")

// readsAhead is how often lists are read before the lock is taken. After that it is done
// under it, so that somebody who changes lists without pause keeps nobody else from it.
const readsAhead = 3

// listMaps are the maps of the lists of a job, nil for none: those it puts in force, and
// those that were before it, for the way back.
type listMaps struct {
	use, held *loader.Lists
	warnings  []string
}

// back returns those of the way back.
func (l *listMaps) back() *listMaps { return &listMaps{use: l.held} }

// close lets go of them; what programs use stays.
func (l *listMaps) close() {
	for _, maps := range []*loader.Lists{l.use, l.held} {
		maps.Close()
	}
}

// chooseLists finds or fills the maps of the lists that the rules of a state name, and
// notes in the state what they hold. The caller closes them.
func (r *Router) chooseLists(s *State, files listFiles) (*listMaps, error) {
	active, ended, err := s.activeRules()
	if err != nil {
		return nil, err
	}
	held, err := r.heldLists(s)
	if err != nil {
		return nil, err
	}
	m := &listMaps{held: held}
	wanted := wantedOf(active)
	switch {
	case len(wanted) == 0:
		s.Lists = nil
		return m, nil
	case files.read == nil && held != nil && s.holds(wanted, wantedOf(ended)) && !s.changed(files.strict):
		m.use = held
		if files.keep {
			return m, nil // the rules are those of before
		}
		err = refuseEverything(active, m.use)
	case files.later:
		s.Lists = nil
	default:
		err = r.fillLists(s, active, m, files)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// heldLists opens the maps of lists in force, nil if they are not what the state says.
func (r *Router) heldLists(s *State) (*loader.Lists, error) {
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return nil, err
	}
	held, err := d.OpenLists()
	if err != nil {
		return nil, err
	}
	holds, err := held.Holds(listsKey(s.Lists))
	if err != nil || !holds {
		return nil, errors.Join(err, held.Close())
	}
	return held, nil
}

// holds tells whether the maps in force are those for the wanted lists: whatever they hold
// beside has ended.
func (s *State) holds(wanted, ended []wantedList) bool {
	for _, w := range wanted {
		if s.listState(w) == nil {
			return false
		}
	}
	return !slices.ContainsFunc(s.Lists, func(l ListState) bool {
		return !slices.Contains(wanted, l.as()) && !slices.Contains(ended, l.as())
	})
}

// changed tells whether the file of one of some lists is another by now, or gone.
func (s *State) changed(paths []string) bool {
	return slices.ContainsFunc(s.Lists, func(l ListState) bool {
		changed, err := (&lists.List{Path: l.Path, Stamp: l.Stamp}).Changed()
		return slices.Contains(paths, l.Path) && (changed || err != nil)
	})
}

// fillLists is chooseLists where lists have to be read.
func (r *Router) fillLists(s *State, active config.Rules, m *listMaps, files listFiles) error {
	read := files.read
	fits := read != nil && slices.Equal(read.wanted, wantedOf(active))
	if fits && read.same {
		holds, err := m.held.Holds(listsKey(read.states))
		if err != nil {
			return err
		}
		fits = holds
	}
	if !fits && files.ahead {
		return errListsMoved
	}
	if !fits {
		var err error
		if read, err = r.readLists(s, active, m.held, files); err != nil {
			return err
		}
	}
	m.use = read.maps
	if read.same {
		m.use = m.held
	}
	for _, l := range read.problems {
		m.warnings = append(m.warnings, l.problem.Error())
	}
	s.Lists = read.states
	return refuseEverything(active, m.use)
}

// readLists are lists that were read, and the maps that were filled from them.
type readLists struct {
	wanted   []wantedList
	states   []ListState
	maps     *loader.Lists
	same     bool // the maps in force hold the same
	problems []unreadList
}

// unreadList is a list of which the file could not be read.
type unreadList struct {
	path    string
	problem error
}

// readLists reads the lists that rules name, the old copy of those that cannot be read,
// and fills maps from them beside those in force, of which nothing changes.
func (r *Router) readLists(s *State, active config.Rules, held *loader.Lists, files listFiles) (*readLists, error) {
	out := &readLists{wanted: wantedOf(active)}
	ofEnd := make(map[time.Duration][]*lists.List)
	for _, w := range out.wanted {
		l, state, err := r.readList(s, w)
		broken := slices.Contains(files.strict, w.path) && !errors.Is(err, fs.ErrNotExist)
		switch {
		case err == nil:
		case !files.keep && (l == nil || broken):
			return nil, err
		default:
			out.problems = append(out.problems, unreadList{w.path, err})
		}
		if l != nil {
			ofEnd[w.ends] = append(ofEnd[w.ends], l)
			out.states = append(out.states, state)
		}
	}
	if len(ofEnd) == 0 {
		return out, nil
	}
	groups, err := groupLists(ofEnd)
	if err != nil {
		return nil, err
	}
	key := listsKey(out.states)
	if out.same, err = held.Holds(key); err != nil || out.same {
		return out, err
	}
	out.maps, err = loader.NewLists(key, groups)
	return out, err
}

// readAhead reads what a change of the rules will need read, before the lock is taken: it
// may take seconds, and repairs must not wait for them.
func (r *Router) readAhead(remove bool, rules config.Rules, o ExcludeOptions) (listFiles, error) {
	files := listFiles{}
	if !remove {
		files.strict = listPaths(rules)
	}
	s, err := r.attached()
	if err != nil {
		return files, err
	}
	if _, err := edit(&s.Config.Rules, remove, rules, o); err != nil {
		return files, nil // that is told when it is done
	}
	return r.readFor(s, files)
}

// readFor is readAhead for a state that is to come.
func (r *Router) readFor(s *State, files listFiles) (listFiles, error) {
	active, ended, err := s.activeRules()
	if err != nil || len(wantedOf(active)) == 0 {
		return files, err
	}
	held, err := r.heldLists(s)
	if err != nil {
		return files, err
	}
	defer held.Close()
	if held == nil || !s.holds(wantedOf(active), wantedOf(ended)) || s.changed(files.strict) {
		files.read, err = r.readLists(s, active, held, files)
	}
	return files, err
}

// close lets go of maps that were filled.
func (l *readLists) close() {
	if l != nil {
		l.maps.Close()
	}
}

// groupLists merges lists that end at the same time.
func groupLists(ofEnd map[time.Duration][]*lists.List) ([]loader.ListGroup, error) {
	var groups []loader.ListGroup
	var all []*lists.List
	for ends, same := range ofEnd {
		all = append(all, same...)
		prefixes := same[0].Prefixes
		if len(same) > 1 {
			var err error
			if prefixes, err = lists.Merge(same...); err != nil {
				return nil, err
			}
		}
		groups = append(groups, loader.ListGroup{Prefixes: prefixes, Ends: ends})
	}
	if len(groups) > 1 { // or it is known that they leave something
		if _, err := lists.Merge(all...); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// listsKey tells what maps hold that are filled from these lists.
func listsKey(states []ListState) string {
	var lines []string
	for _, l := range states {
		lines = append(lines, fmt.Sprintf("%s until %d", l.Digest, l.Ends/time.Second))
	}
	slices.Sort(lines)
	return fmt.Sprint(slices.Compact(lines))
}

// refuseEverything refuses lists that leave nothing of a family to Tor together with the
// rules. Of lists without such rules it is known that they leave something.
func refuseEverything(rules config.Rules, maps *loader.Lists) error {
	if maps == nil {
		return nil
	}
	var direct []netip.Prefix
	for _, r := range rules.Of(config.KindDestination) {
		if r.Policy == config.PolicyDirect {
			direct = append(direct, r.Prefix)
		}
	}
	for _, all := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		if !slices.ContainsFunc(direct, all.Overlaps) || slices.Contains(direct, all) {
			continue // that was insisted on
		}
		covered, err := coveredBy(all, direct, maps)
		if err != nil {
			return err
		}
		if covered {
			return config.Invalid("the lists and the destinations that are excluded cover all of %s together, so nothing would be Tor's: leave one of them out", all)
		}
	}
	return nil
}

// coveredBy tells whether some prefixes and the maps cover all of p together.
func coveredBy(p netip.Prefix, direct []netip.Prefix, maps *loader.Lists) (bool, error) {
	switch {
	case slices.ContainsFunc(direct, func(d netip.Prefix) bool { return config.PrefixCovers(d, p) }):
		return true, nil
	case !slices.ContainsFunc(direct, p.Overlaps):
		return maps.Covers(p)
	}
	lower, upper := config.Halves(p)
	covered, err := coveredBy(lower, direct, maps)
	if err != nil || !covered {
		return false, err
	}
	return coveredBy(upper, direct, maps)
}
