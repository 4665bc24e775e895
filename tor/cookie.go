package tor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// cookieSize is that of a control cookie in bytes (control-spec).
const cookieSize = 32

// readCookie reads the file that a server named, which may be any name that
// root can open: only a file that can be that server's cookie is opened.
func readCookie(path string, s server) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("that is no absolute path")
	}
	// To open a device can be to use it (a watchdog starts), so it is looked
	// at first, and opened by what was looked at: a name could be turned between.
	at, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	if err := checkCookie(at, s); err != nil {
		return nil, err
	}
	// A lease of its owner's would keep an open that blocks waiting.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	cookie := make([]byte, cookieSize)
	if _, err := io.ReadFull(f, cookie); err != nil {
		return nil, err
	}
	return cookie, nil
}

// checkCookie refuses what is not a server's cookie. A tor that root started
// can make its socket as root, and its cookie under its account.
func checkCookie(fd int, s server) error {
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return err
	}
	switch {
	case info.Mode&unix.S_IFMT == unix.S_IFLNK:
		return errors.New("it is a symbolic link; name the file itself (CookieAuthFile)")
	case info.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a file")
	case info.Size != cookieSize:
		return fmt.Errorf("it has %d bytes, and a cookie has %d", info.Size, cookieSize)
	case s.known && s.uid != 0 && info.Uid != s.uid:
		return fmt.Errorf("it belongs to uid %d, but uid %d listens at the control port", info.Uid, s.uid)
	}
	return nil
}

// within gives up on work that does not end in time or with ctx, and leaves
// it behind: no deadline reaches a system call on a file system that hangs.
func within[T any](ctx context.Context, limit time.Duration, work func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := work()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
