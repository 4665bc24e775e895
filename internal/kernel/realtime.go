package kernel

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// bottomHalfLock keeps softirqs of a CPU from one another on a real-time kernel; without it, since Linux
// 6.18 (commit 3253cb49cbad), one may be in the middle of a packet while another takes the next.
const bottomHalfLock = "CONFIG_PREEMPT_RT_NEEDS_BH_LOCK=y"

// SerialPackets reports ErrMissing where a CPU may handle two packets at once. Programs keep what they
// know of theirs in a place of the CPU's, so one would be judged by the other.
func SerialPackets() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return serialPackets(os.DirFS("/"), unix.ByteSliceToString(name.Release[:]))
}

func serialPackets(root fs.FS, release string) error {
	realtime, err := fs.ReadFile(root, "sys/kernel/realtime")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ask whether this is a real-time kernel: %w", err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("read the kernel's release %q: %w", release, err)
	}
	if strings.TrimSpace(string(realtime)) != "1" || major < 6 || major == 6 && minor < 18 {
		return nil
	}
	locked, err := configured(root, release, bottomHalfLock)
	if err != nil || locked {
		return err
	}
	return Lacks(errors.New("this is a real-time kernel, which may handle two packets at once on one CPU"), "one with "+bottomHalfLock+", or none of PREEMPT_RT")
}

// configured looks for a line in the kernel's configuration, where the kernel or its package has it.
func configured(root fs.FS, release, line string) (bool, error) {
	for path, open := range map[string]func(io.Reader) (io.Reader, error){
		"proc/config.gz":         func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"boot/config-" + release: func(r io.Reader) (io.Reader, error) { return r, nil },
	} {
		file, err := root.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read the kernel's configuration: %w", err)
		}
		found, err := hasLine(file, open, line)
		if err := errors.Join(err, file.Close()); err != nil {
			return false, fmt.Errorf("read the kernel's configuration, %s: %w", path, err)
		}
		if found {
			return true, nil
		}
	}
	return false, nil
}

func hasLine(file io.Reader, open func(io.Reader) (io.Reader, error), line string) (bool, error) {
	text, err := open(file)
	if err != nil {
		return false, err
	}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		if lines.Text() == line {
			return true, nil
		}
	}
	return false, lines.Err()
}
