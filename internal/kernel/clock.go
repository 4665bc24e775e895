package kernel

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is how long this machine has been up, sleep included: the clock by which
// the programs tell what has ended (CLOCK_BOOTTIME).
func BootTime() (time.Duration, error) { return read(unix.CLOCK_BOOTTIME) }

// Monotonic is the same without sleep: the clock by which the fast path tells what was
// proven just now (CLOCK_MONOTONIC).
func Monotonic() (time.Duration, error) { return read(unix.CLOCK_MONOTONIC) }

func read(clock int32) (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
