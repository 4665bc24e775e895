package router

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/lists"
)

// Of each list in force there is a copy of what was read. When another list comes or goes
// all have to be merged anew, and a file that is broken or gone by then must not take
// along what is in force of it.

func (r *Router) copiesDir() string { return filepath.Join(r.data, "lists") }

// copyPath is where what has a digest is, whichever list it was read from: that of a change
// which fails does not take the place of the one in force.
func (r *Router) copyPath(digest string) string { return filepath.Join(r.copiesDir(), digest) }

// readList reads a list, or the copy of what a state says is in force of it: then the error
// tells why. Without either the list is nil.
func (r *Router) readList(s *State, w wantedList) (*lists.List, ListState, error) {
	var old *ListState
	if i := slices.IndexFunc(s.Lists, func(l ListState) bool { return l.Path == w.path }); i >= 0 {
		old = &s.Lists[i]
	}
	l, err := lists.Read(w.path)
	if err == nil {
		if err := r.keepCopy(l); err != nil {
			r.notify(fmt.Sprintf("warning: should list %s break, what is in it may become Tor's: %v", w.path, err))
		}
		return l, ListState{Path: w.path, Entries: l.Entries, Digest: l.Digest, Read: time.Now().Truncate(time.Second), Stamp: l.Stamp, Ends: w.ends}, nil
	}
	if old == nil {
		return nil, ListState{}, err
	}
	state := *old
	state.Ends = w.ends
	kept, copyErr := lists.Read(r.copyPath(old.Digest))
	if copyErr != nil || kept.Digest != old.Digest {
		return nil, ListState{}, fmt.Errorf("%w; of what was read before there is no copy", err)
	}
	return kept, state, stays(err, old)
}

// stays adds to the problem of a list what is in force.
func stays(problem error, old *ListState) error {
	return fmt.Errorf("%w; what was read on %s stays in force", problem, old.Read.Local().Format(time.DateTime))
}

// keepCopy writes down what was read, unless it has been before.
func (r *Router) keepCopy(l *lists.List) error {
	path := r.copyPath(l.Digest)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(r.copiesDir(), 0o711); err != nil {
		return fmt.Errorf("keep a copy: %w", err)
	}
	const usualLine = 20 // bytes
	text := make([]byte, 0, usualLine*len(l.Prefixes))
	for _, p := range l.Prefixes {
		text = append(p.AppendTo(text), '\n')
	}
	if err := config.ReplaceFile(path, text); err != nil {
		return fmt.Errorf("keep a copy: %w", err)
	}
	return nil
}

// forgetCopies removes the copies of what is in force no more.
func (r *Router) forgetCopies(inForce []ListState) {
	entries, err := os.ReadDir(r.copiesDir())
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	for _, entry := range entries {
		if !slices.ContainsFunc(inForce, func(l ListState) bool { return l.Digest == entry.Name() }) {
			err = errors.Join(err, os.Remove(filepath.Join(r.copiesDir(), entry.Name())))
		}
	}
	if err != nil {
		r.notify(fmt.Sprintf("warning: copies of lists that went are left: %v", err))
	}
}
