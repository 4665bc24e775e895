package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// labName matches what belongs to a lab (namespace names and temporary
// directories) and captures the process that made it.
var labName = regexp.MustCompile(`^tl(\d+)(?:x\d+)?-`)

// SweepStale removes the namespaces, processes and files of labs whose process is
// gone, for instance after a test was killed. Running labs are left alone.
func SweepStale() error {
	var errs []error
	for _, path := range staleIn(netnsDir) {
		errs = append(errs, killInside(path), removeNetNS(path))
	}
	for _, path := range staleIn(os.TempDir()) {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

func staleIn(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // no such directory: nothing can be stale in it
	}
	var stale []string
	for _, entry := range entries {
		match := labName.FindStringSubmatch(entry.Name())
		if match == nil {
			continue
		}
		pid, err := strconv.Atoi(match[1])
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			stale = append(stale, filepath.Join(dir, entry.Name()))
		}
	}
	return stale
}

// killInside ends every process in the namespace but our own and waits until they
// are gone. A lab's namespaces hold only what the lab or its tests started, daemons
// that left their parent included.
func killInside(nsPath string) error {
	var ns unix.Stat_t
	if err := unix.Stat(nsPath, &ns); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("stat namespace %s: %w", nsPath, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// Again until none is left: a process may have forked behind our back.
	return waitFor(ctx, "processes in "+nsPath+" to end", func() (bool, error) {
		pids, err := processesIn(&ns)
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return false, fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		return len(pids) == 0, err
	})
}

// processesIn lists the processes whose network namespace is ns, ours left out.
func processesIn(ns *unix.Stat_t) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var have unix.Stat_t
		if unix.Stat(filepath.Join("/proc", entry.Name(), "ns/net"), &have) != nil {
			continue // ended meanwhile
		}
		if have.Ino == ns.Ino && have.Dev == ns.Dev {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
