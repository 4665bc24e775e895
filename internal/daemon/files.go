package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// maxFiles bounds the descriptors of the daemon: what waits for nftables uses pselect(2), whose sets end
// at 1024, and panics at a descriptor behind that. So too many are an error, of who opens one.
const maxFiles = unix.FD_SETSIZE

// boundFiles lowers the soft limit, which Go has raised to the hard one. That one stays, for the
// tors that are started here: each raises its own.
func boundFiles() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	lim.Cur = min(maxFiles, lim.Max)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("lower the limit of open files to %d: %w", lim.Cur, err)
	}
	return nil
}
