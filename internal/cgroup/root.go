// Package cgroup finds its way in the kernel's tree of control groups (version 2), which
// tells programs apart whatever their names and users are, and keeps torbpf's own groups:
//
//	<root>/torbpf/<network namespace>/<name>
package cgroup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoTree says that no tree of version 2 is mounted here.
var ErrNoTree = errors.New("no tree of control groups (cgroup2) is mounted")

// Root returns where the whole tree is mounted, in the mount namespace of the caller.
func Root() (string, error) {
	mounts, err := trees("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return mounts[0].at, nil
}

// trees lists the mounts of the whole tree in a table; ErrNoTree if there is none.
func trees(table string) ([]mount, error) {
	all, err := mountsIn(table)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(m mount) bool { return m.kind != "cgroup2" || m.from != "/" })
	if len(all) == 0 {
		return nil, ErrNoTree
	}
	return all, nil
}

// Mounts lists where the caller's mount namespace has control groups of any version, whole
// or in part.
func Mounts() ([]string, error) {
	all, err := mountsIn("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var groups []string
	for _, m := range all {
		if strings.HasPrefix(m.kind, "cgroup") {
			groups = append(groups, m.at)
		}
	}
	return groups, nil
}

// mount is a line of mountinfo: the kind of file system, what of it, where, and how all
// mounts of it are set up.
type mount struct {
	kind, from, at string
	options        []string
}

func mountsIn(table string) ([]mount, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, fmt.Errorf("find the tree of control groups: %w", err)
	}
	defer f.Close()
	var all []mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc(5): ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE OPTIONS
		where, what, _ := strings.Cut(lines.Text(), " - ")
		at, of := strings.Fields(where), strings.Fields(what)
		if len(at) > 4 && len(of) > 2 {
			all = append(all, mount{kind: of[0], from: at[3], at: unescape(at[4]), options: strings.Split(of[len(of)-1], ",")})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("find the tree of control groups: %w", err)
	}
	return all, nil
}

// unescape undoes how mountinfo writes blanks.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// ID returns the kernel's number of a group by its path below the root; an error that
// wraps fs.ErrNotExist where there is none.
func ID(root, path string) (uint64, error) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(root, path), unix.AT_SYMLINK_FOLLOW) // root may be one, see Tree
	if err != nil {
		return 0, fmt.Errorf("identify control group %s: %w", path, err)
	}
	id := handle.Bytes()
	if len(id) != 8 {
		return 0, fmt.Errorf("identify control group %s: its handle has %d bytes", path, len(id))
	}
	return binary.NativeEndian.Uint64(id), nil
}

// Whole tells whether a root is the machine's, and not that of a control group namespace,
// as containers have: to the kernel that is a group like any other.
func Whole(root string) (bool, error) {
	_, err := os.Stat(filepath.Join(root, "cgroup.type"))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("inspect control group: %w", err)
	}
	return false, nil
}
