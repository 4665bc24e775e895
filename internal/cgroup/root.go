// Package cgroup finds its way in the kernel's tree of control groups (version 2), which
// tells programs apart whatever their names and users are.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoTree says that no tree of version 2 is mounted here.
var ErrNoTree = errors.New("no tree of control groups (cgroup2) is mounted")

// Root returns where the whole tree is mounted, in the mount namespace of the caller.
func Root() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the tree of control groups: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// proc(5): ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE OPTIONS
		mount, kind, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if len(fields) > 4 && strings.HasPrefix(kind, "cgroup2 ") && fields[3] == "/" {
			return unescape(fields[4]), nil
		}
	}
	return "", ErrNoTree
}

// unescape undoes how mountinfo writes blanks.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// ID returns the kernel's number of a group by its path below the root; an error that
// wraps fs.ErrNotExist where there is none.
func ID(root, path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(root, path), &stat); err != nil {
		return 0, fmt.Errorf("inspect control group %s: %w", path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, fmt.Errorf("inspect control group %s: %w", path, fs.ErrNotExist)
	}
	return stat.Ino, nil // it is the id, on machines whose inode numbers have 64 bits
}
