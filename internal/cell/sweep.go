package cell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
)

const (
	prefix   = "exec-" // of the groups of cells
	attempts = 16      // to take a group before somebody sweeps it
)

// claim makes a group and holds it: the lock on its folder goes with this process, however
// that ends.
func claim(root, namespace string) (cgroup.Group, *os.File, error) {
	for i := range attempts {
		name := fmt.Sprintf("%s%d", prefix, os.Getpid())
		if i > 0 { // one of a process of another pid namespace, or left by one of that pid
			name = fmt.Sprintf("%s-%d", name, i)
		}
		group, err := cgroup.Make(root, namespace, name)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return cgroup.Group{}, nil, err
		}
		held, err := hold(group, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept before we held it
		}
		return group, held, err
	}
	return cgroup.Group{}, nil, fmt.Errorf("make a control group: %d names are taken: torbpf detach --all removes what is left behind", attempts)
}

// hold locks a group's folder; with LOCK_NB in how, EWOULDBLOCK says that another does.
func hold(group cgroup.Group, how int) (*os.File, error) {
	dir, err := group.Open()
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil && !group.Exists() {
		err = fs.ErrNotExist
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("hold control group %s: %w", group.Path, err)
	}
	return dir, nil
}

// Is tells whether a group is a cell's.
func Is(group cgroup.Group) bool { return strings.HasPrefix(filepath.Base(group.Path), prefix) }

// Held tells whether the Run of a cell lives, which will clear up.
func Held(group cgroup.Group) (bool, error) {
	held, err := hold(group, unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return false, held.Close()
}

// Sweep ends and removes the groups of a network namespace whose Run is gone. forget is
// called with each when nothing is left in it, as Router.End is by Run.
func Sweep(ctx context.Context, root, namespace string, forget func(context.Context, cgroup.Group) error) error {
	groups, err := cgroup.Groups(root, namespace)
	if err != nil {
		return err
	}
	var errs []error
	for _, group := range groups {
		if Is(group) {
			errs = append(errs, sweep(ctx, group, forget))
		}
	}
	return errors.Join(errs...)
}

func sweep(ctx context.Context, group cgroup.Group, forget func(context.Context, cgroup.Group) error) error {
	held, err := hold(group, unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil // its Run lives, or has just removed it
	}
	if err != nil {
		return err
	}
	defer held.Close()
	return end(ctx, forget, group)
}
