package kernel

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// CloseOnExec keeps from what this process executes, or starts, each descriptor beside the
// standard three. Those that Go opens are marked already; others this process was started
// with, such as the lock of a calling script, or a socket that has a policy of its own.
func CloseOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open descriptors: %w", err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// BoundCapabilities drops all but a mask of capabilities from the calling thread's bounding
// set: what it executes, or starts, can have no others.
func BoundCapabilities(mask uint64) error {
	for capability := uintptr(0); ; capability++ {
		bound, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // beyond the last one that this kernel knows
		}
		if err != nil {
			return fmt.Errorf("read bounding set: %w", err)
		}
		if bound == 0 || mask&(1<<capability) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", capability, err)
		}
	}
}
