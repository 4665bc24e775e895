package lists

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// tick is more than the kernel's clock for time stamps of files lags behind
// time.Now: one jiffy, which is at most 10 ms.
const tick = 20 * time.Millisecond

// attempts is how often a file is read that changes meanwhile.
const attempts = 3

// Stamp tells one state of a file from another; compare stamps with ==. A file
// that is replaced by rename has another inode. The time of the last change to
// the inode is there because a program may set that of the text back, as tools
// that preserve times do, and because the number of an inode is used again.
type Stamp struct {
	Inode      uint64
	Size       int64 // bytes
	ModifiedNs int64 // mtime, in nanoseconds since 1970
	ChangedNs  int64 // ctime, likewise
}

func stampOf(info fs.FileInfo) Stamp {
	s := info.Sys().(*syscall.Stat_t)
	return Stamp{Inode: s.Ino, Size: info.Size(), ModifiedNs: info.ModTime().UnixNano(), ChangedNs: s.Ctim.Nano()}
}

// StampAt returns the stamp of what is at path now. A file that is gone is an error that
// wraps fs.ErrNotExist.
func StampAt(path string) (Stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Stamp{}, fmt.Errorf("look at list: %w", err)
	}
	return stampOf(info), nil
}

// stable has the file at path read, again if it changes meanwhile, and returns
// the stamp of what the last call of read has read.
func stable(path string, read func(f *os.File, size int64) error) (Stamp, error) {
	for range attempts {
		stamp, changed, err := once(path, read)
		if !changed {
			return stamp, err
		}
	}
	return Stamp{}, fmt.Errorf("%s: changed each of the %d times it was read: write it elsewhere and rename it into place", path, attempts)
}

// once has the file read once. If it changed meanwhile, err says nothing.
func once(path string, read func(f *os.File, size int64) error) (before Stamp, changed bool, err error) {
	f, info, err := open(path)
	if err != nil {
		return Stamp{}, false, err
	}
	defer f.Close()
	before = stampOf(info)
	time.Sleep(before.unsettled(time.Now()))
	readErr := read(f, before.Size)
	after, err := StampAt(path)
	if err != nil {
		return Stamp{}, false, err
	}
	return before, after != before, readErr
}

// unsettled is for how long the next change may still get the times of s: one
// that nobody would ever see.
func (s Stamp) unsettled(now time.Time) time.Duration {
	age := now.Sub(time.Unix(0, s.ChangedNs))
	if age < 0 || age >= tick { // the clock was set back, or all is well
		return 0
	}
	return tick - age
}

// open opens a regular file and touches nothing else: to open a device may do
// something.
func open(path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("look at list: %w", err)
	}
	if err := usable(path, info); err != nil {
		return nil, nil, err
	}
	f, err := openAtOnce(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read list: %w", err)
	}
	// It may be another by now.
	if info, err = f.Stat(); err == nil {
		err = usable(path, info)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// openAtOnce waits for nobody to open the other end of a pipe.
func openAtOnce(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
}

// usable refuses what is no list, whatever stands in it.
func usable(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return invalid("%s: is %s, not a regular file: name the file with the list", path, kind(info.Mode()))
	}
	if info.Size() > MaxBytes {
		return fmt.Errorf("%s: %w", path, tooLarge())
	}
	return nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}
