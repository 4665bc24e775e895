package kernel

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is how long this machine has been up, sleep included: the clock by which
// the programs tell what has ended (CLOCK_BOOTTIME).
func BootTime() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
