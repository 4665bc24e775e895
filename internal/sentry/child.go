package sentry

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The descriptors that Spawn hands to its child, beside the standard three. The
// gates are named in the Config.
const (
	childGates  = 3 + iota // the BPF array
	childConfig            // a pipe with the Config
	childReport            // a pipe that takes reportReady or the text of an error
	childSlots             // the BPF array of answers for excluded names
	childAskers            // the BPF array of who asks for them
)

// reportReady is what the child reports when it serves.
const reportReady = "ready"

// RunChild is the sentry's whole life in a process started by Spawn: it takes
// what Spawn left it, reports whether it could begin, and runs until ctx ends.
// The log goes to standard error. dialer makes the Dialer for a Config.
func RunChild(ctx context.Context, dialer func(Config) Dialer) error {
	// A log that nobody reads any more must not end the sentry.
	signal.Ignore(unix.SIGPIPE)
	report := os.NewFile(childReport, "report pipe")
	err := runChild(ctx, dialer, report)
	if err != nil {
		// Once ready was reported nobody reads this, and it fails unnoticed;
		// the caller has the error as well.
		_, _ = report.WriteString(err.Error())
	}
	report.Close()
	return err
}

func runChild(ctx context.Context, dialer func(Config) Dialer, report *os.File) error {
	cfg, err := readConfig(os.NewFile(childConfig, "configuration pipe"))
	if err != nil {
		return err
	}
	if err := nameSelf(); err != nil {
		return err
	}
	if err := limitSelf(); err != nil {
		return err
	}
	return Run(ctx, cfg, dialer(cfg), Options{
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Ready: func() error {
			if err := hideSelf(); err != nil {
				return err
			}
			if _, err := report.WriteString(reportReady); err != nil {
				return fmt.Errorf("report that the sentry serves: %w", err)
			}
			return report.Close()
		},
	})
}

func readConfig(pipe *os.File) (Config, error) {
	defer pipe.Close()
	var cfg Config
	if err := json.NewDecoder(pipe).Decode(&cfg); err != nil {
		return Config{}, fmt.Errorf("read the sentry's configuration (it is started by attach, not by hand): %w", err)
	}
	return cfg, nil
}

// nameSelf gives the process the name that ps and top show. It would be "exe",
// after the path that Spawn starts it by.
func nameSelf() error {
	if err := os.WriteFile("/proc/self/comm", []byte(processName), 0); err != nil {
		return fmt.Errorf("name the sentry's process: %w", err)
	}
	return nil
}

// What the process may use. The address space is what a Go program reserves
// rather than what it fills; how much that is depends on how it was built, so
// the bound is relative.
const (
	maxOpenFiles     = 1024
	spareAddressMiB  = 512
	bytesPerMebibyte = 1 << 20
)

// limitSelf bounds the process, for good: an unprivileged one cannot raise what
// it lowered. A core dump would hold the names that devices asked for.
func limitSelf() error {
	inUse, err := addressSpace()
	if err != nil {
		return err
	}
	for _, bound := range []struct {
		resource int
		name     string
		value    uint64
	}{
		{unix.RLIMIT_NOFILE, "open files", maxOpenFiles},
		{unix.RLIMIT_AS, "address space", inUse + spareAddressMiB*bytesPerMebibyte},
		{unix.RLIMIT_CORE, "core dumps", 0},
	} {
		limit := unix.Rlimit{Cur: bound.value, Max: bound.value}
		if err := unix.Setrlimit(bound.resource, &limit); err != nil {
			return fmt.Errorf("limit the sentry's %s: %w", bound.name, err)
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
// "nobody", from tracing this one: they would read DNS names and reach the gate.
// From then on /proc/self belongs to root, so it comes last.
func hideSelf() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep others from tracing the sentry: %w", err)
	}
	return nil
}
