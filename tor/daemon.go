package tor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Daemon is a managed tor. It holds no resource: the process outlives the
// command that started it and is found again by Find.
type Daemon struct {
	dir string
	rec record
}

// Find returns the tor that runs from a state directory, or ErrNotRunning.
func Find(dir string) (*Daemon, error) {
	rec, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	p, err := rec.open(dir)
	if errors.Is(err, ErrNotRunning) {
		// The one that was written down is gone; whoever started another may have been
		// killed before it could write that down.
		if rec, err = searchRecord(dir); err == nil {
			p, err = rec.open(dir)
		}
	}
	if err != nil {
		return nil, err
	}
	p.close()
	return &Daemon{dir: dir, rec: rec}, nil
}

// PID returns the process id that tor has, or had when it ran.
func (d *Daemon) PID() int { return d.rec.PID }

// Cgroup returns the kernel's number of the control group that tor was started in, and so
// all of its sockets are of; 0 if it is not known.
func (d *Daemon) Cgroup() uint64 { return d.rec.Cgroup }

// Socket returns the path of the control socket.
func (d *Daemon) Socket() string { return SocketPath(d.dir) }

// Alive says whether the process is there; it may hang nevertheless.
func (d *Daemon) Alive() bool {
	p, err := d.rec.open(d.dir)
	if err != nil {
		return false
	}
	p.close()
	return true
}

// Dial opens an authenticated control connection.
func (d *Daemon) Dial(ctx context.Context) (*Control, error) { return Dial(ctx, d.Socket()) }

// logWindow is how much of the end of a log is looked at.
const logWindow = 64 << 10

// tail reads the end of a file that tor's account could have replaced: links
// are not followed (they could name a secret of root's), a fifo is not waited for.
func tail(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", path)
	}
	buf := make([]byte, min(info.Size(), logWindow))
	n, err := f.ReadAt(buf, info.Size()-int64(len(buf)))
	if n < len(buf) && err != nil {
		return "", err
	}
	text := string(buf)
	if info.Size() > logWindow {
		_, text, _ = strings.Cut(text, "\n") // begun in the middle of a line
	}
	return text, nil
}

// Stop ends tor and removes what it left in the state directory. The data
// directory stays. Stopping a tor that has gone is no error. It returns
// within some ten seconds even if tor hangs, sooner if ctx ends: then tor is
// killed without being asked.
func (d *Daemon) Stop(ctx context.Context) error {
	p, err := d.rec.open(d.dir)
	switch {
	case errors.Is(err, ErrNotRunning):
	case err != nil:
		return err
	default:
		defer p.close()
		if err := p.end(ctx, d.rec.PID); err != nil {
			return err
		}
	}
	return Options{Dir: d.dir}.removeFiles()
}

// removeFiles removes the files of the package doc, and the directory unless
// somebody else keeps something there.
func (o Options) removeFiles() error {
	err := os.RemoveAll(o.runDir())
	for _, path := range []string{o.torrcPath(), o.nextPath(), o.startupPath(), recordPath(o.Dir)} {
		if e := os.Remove(path); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	e := os.Remove(o.Dir)
	if err == nil && e != nil && !errors.Is(e, fs.ErrNotExist) && !errors.Is(e, unix.ENOTEMPTY) {
		err = e
	}
	if err != nil {
		return fmt.Errorf("remove tor's files: %w", err)
	}
	return nil
}
