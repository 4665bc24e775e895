package tor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/torbpf/torbpf/internal/users"
)

// makeDirs prepares the directories of an instance; see the package doc.
func (o Options) makeDirs(acct users.Account) error {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return fmt.Errorf("make tor's state directory: %w", err)
	}
	if err := rootsOnly(o.Dir); err != nil {
		return fmt.Errorf("use tor's state directory: %w", err)
	}
	// What an earlier tor left there belongs to an earlier tor.
	if err := os.RemoveAll(o.runDir()); err != nil {
		return fmt.Errorf("clear tor's state directory: %w", err)
	}
	if err := mkdirFor(o.runDir(), acct, 0o750); err != nil {
		return fmt.Errorf("make tor's state directory: %w", err)
	}
	return o.makeDataDir(acct)
}

// makeDataDir makes the DataDirectory, or takes one that is tor's alone:
// whoever can write there chooses the guards.
func (o Options) makeDataDir(acct users.Account) error {
	parent := filepath.Dir(o.DataDir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make tor's data directory: %w", err)
	}
	if err := rootsOnly(parent); err != nil {
		return fmt.Errorf("use tor's data directory: %w", err)
	}
	info, err := os.Lstat(o.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := mkdirFor(o.DataDir, acct, 0o700); err != nil {
			return fmt.Errorf("make tor's data directory: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("use tor's data directory: %w", err)
	}
	switch {
	case !info.IsDir():
		return fmt.Errorf("use tor's data directory: %s is not a directory; remove it", o.DataDir)
	case owner(info) != acct.UID:
		return fmt.Errorf("use tor's data directory: %s belongs to uid %d, not to %s; if it is torbpf's, chown -R %s: %s",
			o.DataDir, owner(info), acct.Name, acct.Name, o.DataDir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("use tor's data directory: others can write to %s (mode %04o), so its guards cannot be trusted; remove it",
			o.DataDir, info.Mode().Perm())
	}
	return nil
}

// mkdirFor makes a directory for an account whatever the umask. Its parent is
// root's, so nothing can take its place before it is handed over.
func mkdirFor(path string, acct users.Account, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return os.Lchown(path, int(acct.UID), int(acct.GID))
}

// rootsOnly refuses a path that anyone but root could turn elsewhere: every
// directory on the way, before and after symbolic links, must be root's, and
// others may write to it only where they cannot rename (a sticky /tmp).
func rootsOnly(path string) error {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, way := range []string{path, resolved} {
		for p := way; ; p = filepath.Dir(p) {
			link, err := os.Lstat(p)
			if err != nil {
				return err
			}
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			if owner(link) != 0 || owner(info) != 0 {
				return fmt.Errorf("%s belongs to uid %d; it must be root's: chown root %s", p, owner(link), p)
			}
			if info.Mode().Perm()&0o022 != 0 && (info.Mode()&os.ModeSticky == 0 || p == way) {
				return fmt.Errorf("others can write to %s (mode %04o); chmod go-w %s", p, info.Mode().Perm(), p)
			}
			if p == "/" {
				break
			}
		}
	}
	return nil
}

func owner(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

// writeFile replaces a file in a directory of root's at once, so that a crash
// leaves the old or the new content.
func writeFile(path string, data []byte, mode os.FileMode, gid uint32) error {
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chown(0, int(gid)), f.Chmod(mode), f.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", next, err), os.Remove(next))
	}
	return os.Rename(next, path)
}
