package host

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// NoProgram says why what is at a path is no program that runs under it; "" where it is one,
// or cannot be looked at.
func NoProgram(path string) string {
	stat, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return "is not there now, so the rule has no effect until it is"
	case err != nil:
		return ""
	case stat.IsDir():
		return "is a directory: the rule has no effect; name the file that runs"
	case !stat.Mode().IsRegular() || stat.Mode()&0o111 == 0:
		return "is no executable file: the rule has no effect"
	case isScript(path):
		return "is a script, and what runs is its interpreter: the rule has no effect; name the program that it starts, or the user or control group that runs it"
	}
	return ""
}

func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	begin := make([]byte, 2)
	_, err = io.ReadFull(f, begin)
	return err == nil && string(begin) == "#!"
}
