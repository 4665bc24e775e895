package confined

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// StopAll ends every process of the role in the network namespace of the calling thread. It
// is for when their numbers may have been lost; Stop is surer.
func (r Role) StopAll() error {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("identify network namespace: %w", err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var errs []error
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil || !r.plays(process, own) {
			continue
		}
		stat, err := readStat(pid)
		if err != nil || !stat.alive() {
			continue // it has ended meanwhile
		}
		// The name once more: the start time now stands for what was looked at.
		if !r.plays(process, own) {
			continue
		}
		errs = append(errs, r.Stop(pid, stat.starttime))
	}
	return errors.Join(errs...)
}

// plays judges a process by its folder in /proc. One that pretends to have the role in
// torbpf's own namespace does so at its own risk.
func (r Role) plays(process, netns string) bool {
	comm, err := os.ReadFile(filepath.Join(process, "comm"))
	if err != nil || strings.TrimSpace(string(comm)) != r.processName() {
		return false
	}
	ns, err := os.Readlink(filepath.Join(process, "ns/net"))
	return err == nil && ns == netns
}
