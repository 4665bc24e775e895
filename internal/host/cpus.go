package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// onlineCPUs counts those that the kernel runs programs on: not those that this process may
// use, since another command may be told to use others.
func onlineCPUs() (int, error) {
	const path = "/sys/devices/system/cpu/online"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	n, err := countCPUs(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("count CPUs by %s: %w", path, err)
	}
	return n, nil
}

// countCPUs reads a list such as 0-3,6.
func countCPUs(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, fromErr := strconv.Atoi(first)
		to, toErr := strconv.Atoi(last)
		if fromErr != nil || toErr != nil || to < from {
			return 0, fmt.Errorf("%q is no list of CPUs", list)
		}
		n += to - from + 1
	}
	return n, nil
}
