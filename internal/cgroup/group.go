package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	family     = "torbpf" // the group that holds all of ours
	permission = 0o700    // who opens a folder could hold its lock
	attempts   = 16       // against others who remove an empty parent at the same time
)

// Group is a control group of torbpf's.
type Group struct {
	Path string // below the root of the tree, as a rule names it: /torbpf/host/exec-4711
	ID   uint64 // the kernel's number, as BPF sees it

	root string
}

// Make makes a group; an error that wraps fs.ErrExist where there is one of that name.
// The parents are made as needed, and go with the last of their groups (Remove).
func Make(root, namespace, name string) (Group, error) {
	path := filepath.Join("/", family, namespace, name)
	var err error
	for range attempts {
		if err = makeGroup(root, namespace, name); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return Group{}, fmt.Errorf("make control group %s: %w", path, err)
	}
	id, err := ID(root, path)
	return Group{Path: path, ID: id, root: root}, err
}

// makeGroup makes the last of the groups, each in the one before, and those that it lacks.
func makeGroup(root string, names ...string) error {
	dir := filepath.Join(root, family)
	for i := 0; ; i++ {
		last := i == len(names)
		err := os.Mkdir(dir, permission)
		if err == nil {
			err = os.Chmod(dir, permission) // whatever the umask
		} else if errors.Is(err, fs.ErrExist) && !last {
			err = nil
		}
		if err != nil || last {
			return err
		}
		dir = filepath.Join(dir, names[i])
	}
}

// Groups lists the groups of a network namespace.
func Groups(root, namespace string) ([]Group, error) {
	entries, err := os.ReadDir(filepath.Join(root, family, namespace))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list control groups: %w", err)
	}
	var groups []Group
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		path := filepath.Join("/", family, namespace, entry.Name())
		id, err := ID(root, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		groups = append(groups, Group{Path: path, ID: id, root: root})
	}
	return groups, nil
}

// Open opens the group, for SysProcAttr.CgroupFD; an error that wraps fs.ErrNotExist if it
// is gone, even if another has taken its name.
func (g Group) Open() (*os.File, error) {
	dir, err := os.OpenFile(g.file(""), unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open control group: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &stat); err != nil || stat.Ino != g.ID {
		dir.Close()
		return nil, fmt.Errorf("open control group %s: %w", g.Path, errors.Join(err, fs.ErrNotExist))
	}
	return dir, nil
}

// Exists tells whether the group is still there, and no other by its name.
func (g Group) Exists() bool {
	id, err := ID(g.root, g.Path)
	return err == nil && id == g.ID
}

// Remove removes the group, what groups are below it, and its parents if nothing else is in
// them. There must be no process in it any more. One that is gone is no error.
func (g Group) Remove() error {
	below, err := g.withDescendants()
	if err != nil {
		return err
	}
	slices.Reverse(below) // children first
	for _, dir := range below {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	namespace := filepath.Dir(g.file(""))
	for _, dir := range []string{namespace, filepath.Dir(namespace)} {
		if err := unix.Rmdir(dir); err != nil {
			break // it has other groups
		}
	}
	return nil
}

// withDescendants lists the folders of the group and of all below it, parents first.
func (g Group) withDescendants() ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(g.file(""), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list control group %s: %w", g.Path, err)
	}
	return dirs, nil
}

// file is where one of the group's files is; the group itself for "".
func (g Group) file(name string) string { return filepath.Join(g.root, g.Path, name) }

// Add moves a process into the group. What it opens from then on is the group's.
func (g Group) Add(pid int) error {
	if err := os.WriteFile(g.file("cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0); err != nil {
		return fmt.Errorf("move process %d to control group %s: %w", pid, g.Path, err)
	}
	return nil
}

// Ensure returns the group of a name, which it makes where there is none.
func Ensure(root, namespace, name string) (Group, error) {
	g, err := Make(root, namespace, name)
	if !errors.Is(err, fs.ErrExist) {
		return g, err
	}
	g = Group{Path: filepath.Join("/", family, namespace, name), root: root}
	g.ID, err = ID(root, g.Path)
	return g, err
}
