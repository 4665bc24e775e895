package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// Resolve finds out whom rules about this machine's own senders name: users, control
// groups, programs. What is not there is left out, and may come.
func Resolve(rules config.Rules) (plan.Identities, error) {
	out := plan.Identities{Users: make(map[string]uint32), Cgroups: make(map[string]uint64), Programs: make(map[string]plan.FileID)}
	for _, r := range rules {
		var err error
		switch r.Kind {
		case config.KindUser:
			err = put(out.Users, r.User, userID)
		case config.KindCgroup:
			err = put(out.Cgroups, r.Cgroup, cgroupID)
		case config.KindProgram:
			err = put(out.Programs, r.Program, fileID)
		}
		if err != nil {
			return plan.Identities{}, fmt.Errorf("find %s %s: %w", r.Kind, r.Entry, err)
		}
	}
	return out, nil
}

// put looks one up; what is not there is no error.
func put[T any](into map[string]T, name string, find func(string) (T, error)) error {
	found, err := find(name)
	var unknown user.UnknownUserError
	switch {
	case errors.As(err, &unknown) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return err
	}
	into[name] = found
	return nil
}

func userID(name string) (uint32, error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), nil
	}
	found, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(found.Uid, 10, 32)
	return uint32(id), err
}

func cgroupID(path string) (uint64, error) {
	root, err := cgroup.Tree()
	if err != nil {
		return 0, err
	}
	return cgroup.ID(root, path)
}

// fileID follows links: it is the file that runs which counts.
func fileID(path string) (plan.FileID, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return plan.FileID{}, err
	}
	return plan.FileID{Major: unix.Major(stat.Dev), Minor: unix.Minor(stat.Dev), Inode: stat.Ino}, nil
}
