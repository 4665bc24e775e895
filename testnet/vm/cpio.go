package vm

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// archive writes a cpio archive as the kernel unpacks it ("newc", see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). After an error it does
// nothing more; close returns it.
type archive struct {
	w    *bufio.Writer
	n    int64
	ino  int
	have map[string]bool
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), have: map[string]bool{"/": true}}
}

// The types of files in a mode.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.n += int64(n)
	a.err = err
}

func (a *archive) pad() { a.write(make([]byte, (4-a.n%4)%4)) }

func (a *archive) header(name string, mode uint32, size int64) {
	if size >= 1<<32 && a.err == nil {
		a.err = fmt.Errorf("%s is too long for an initramfs: %d bytes", name, size)
	}
	a.ino++
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0))
	a.write(append([]byte(name), 0))
	a.pad()
}

// usr are the folders that are links to those below /usr, in guests as in most systems.
var usr = []string{"bin", "sbin", "lib", "lib64"}

// merged is where a path leads by them.
func merged(name string) string {
	top, rest, _ := strings.Cut(name[1:], "/")
	if rest != "" && slices.Contains(usr, top) {
		return "/usr" + name
	}
	return name
}

// entry begins a file, a link or a directory, unless it is there already.
func (a *archive) entry(name string, mode uint32, size int64) bool {
	name = merged(path.Clean("/" + name))
	if a.have[name] {
		return false
	}
	a.dir(path.Dir(name))
	a.have[name] = true
	a.header(name[1:], mode, size)
	return true
}

// dir makes a directory and those above it.
func (a *archive) dir(name string) {
	if a.entry(name, modeDir|0o755, 0) {
		a.pad()
	}
}

func (a *archive) link(name, target string) {
	if a.entry(name, modeLink|0o777, int64(len(target))) {
		a.write([]byte(target))
		a.pad()
	}
}

func (a *archive) bytes(name string, data []byte) {
	if a.entry(name, modeFile|0o644, int64(len(data))) {
		a.write(data)
		a.pad()
	}
}

// file copies a file of this host; a symbolic link is followed.
func (a *archive) file(name, from string) {
	if a.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		a.err = fmt.Errorf("put into the initramfs: %w", err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	if !a.entry(name, modeFile|uint32(info.Mode().Perm()), info.Size()) {
		return
	}
	n, err := io.Copy(a.w, f)
	a.n += n
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s has changed while it was read", from)
	}
	if a.err == nil {
		a.err = err
	}
	a.pad()
}

// tree copies a directory of this host and what is in it.
func (a *archive) tree(name, from string) {
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		to := path.Join(name, rel)
		switch {
		case d.IsDir():
			a.dir(to)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			a.link(to, target)
		case d.Type().IsRegular():
			a.file(to, p)
		}
		return a.err
	})
	if a.err == nil {
		a.err = err
	}
}

// close ends the archive. Another one may follow it.
func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0)
	a.write(make([]byte, (512-a.n%512)%512))
	if a.err == nil {
		a.err = a.w.Flush()
	}
	return a.err
}
