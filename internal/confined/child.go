package confined

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The descriptors that Spawn hands to its child, beside the standard three.
const (
	childConfig = 3 + iota // a pipe with the configuration
	childReport            // a pipe that takes reportReady or the text of an error
	FirstFile              // the first of Options.Files
)

// reportReady is what the child reports when it serves.
const reportReady = "ready"

// RunChild is the whole life of a process started by Spawn: it takes what Spawn
// left it and has run do the work with the configuration. run calls ready once
// it serves; openFiles is how many descriptors it may have. The log goes to
// standard error.
func RunChild[Config any](r Role, openFiles uint64, run func(cfg Config, ready func() error) error) error {
	// A log that nobody reads any more must not end the process.
	signal.Ignore(unix.SIGPIPE)
	report := os.NewFile(childReport, "report pipe")
	err := runChild(r, openFiles, report, run)
	if err != nil {
		// Once ready was reported nobody reads this, and it fails unnoticed;
		// the caller has the error as well.
		_, _ = report.WriteString(err.Error())
	}
	report.Close()
	return err
}

func runChild[Config any](r Role, openFiles uint64, report *os.File, run func(Config, func() error) error) error {
	var cfg Config
	if err := r.readConfig(os.NewFile(childConfig, "configuration pipe"), &cfg); err != nil {
		return err
	}
	if err := r.nameSelf(); err != nil {
		return err
	}
	if err := r.limitSelf(openFiles); err != nil {
		return err
	}
	return run(cfg, func() error {
		if err := r.hideSelf(); err != nil {
			return err
		}
		if _, err := report.WriteString(reportReady); err != nil {
			return fmt.Errorf("report that the %s serves: %w", r, err)
		}
		return report.Close()
	})
}

func (r Role) readConfig(pipe *os.File, cfg any) error {
	defer pipe.Close()
	if err := json.NewDecoder(pipe).Decode(cfg); err != nil {
		return fmt.Errorf("read the %s's configuration (it is started by attach, not by hand): %w", r, err)
	}
	return nil
}

// nameSelf gives the process the name that ps and top show. It would be "exe",
// after the path that Spawn starts it by.
func (r Role) nameSelf() error {
	if err := os.WriteFile("/proc/self/comm", []byte(r.processName()), 0); err != nil {
		return fmt.Errorf("name the %s's process: %w", r, err)
	}
	return nil
}

// SpareAddresses is how many bytes of address space a child may use beyond what it
// begins with. That is what a Go program reserves rather than what it fills; how much it
// is depends on how it was built, so the bound is relative.
const SpareAddresses = 512 << 20

// limitSelf bounds the process, for good: an unprivileged one cannot raise what
// it lowered. A core dump would hold the names that were asked for.
func (r Role) limitSelf(openFiles uint64) error {
	inUse, err := addressSpace()
	if err != nil {
		return err
	}
	for _, bound := range []struct {
		resource int
		name     string
		value    uint64
	}{
		{unix.RLIMIT_NOFILE, "open files", openFiles},
		{unix.RLIMIT_AS, "address space", inUse + SpareAddresses},
		{unix.RLIMIT_CORE, "core dumps", 0},
	} {
		limit := unix.Rlimit{Cur: bound.value, Max: bound.value}
		if err := unix.Setrlimit(bound.resource, &limit); err != nil {
			return fmt.Errorf("limit the %s's %s: %w", r, bound.name, err)
		}
	}
	return nil
}

// addressSpace returns the size of the process's address space in bytes.
func addressSpace() (uint64, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("read the size of the address space: %w", err)
	}
	pages, _, _ := strings.Cut(string(statm), " ")
	n, err := strconv.ParseUint(pages, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the size of the address space: %w", err)
	}
	return n * uint64(os.Getpagesize()), nil
}

// hideSelf keeps other processes of the same account, which may be the shared
// "nobody", from tracing this one: they would read what it knows and use what it
// holds. From then on /proc/self belongs to root, so it comes last.
func (r Role) hideSelf() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep others from tracing the %s: %w", r, err)
	}
	return nil
}
