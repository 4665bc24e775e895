package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/router"
)

// The exit codes; scripts depend on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotAttached = 3
	exitLeak        = 4 // packets that only the last guards stopped
	exitKernel      = 5 // a kernel feature or a privilege is missing
)

// usageError is a command line that cannot be understood.
type usageError struct {
	err     error
	command string
}

func (e usageError) Error() string {
	return fmt.Sprintf("%v\nsee `%s --help`", e.err, e.command)
}

func (e usageError) Unwrap() error { return e.err }

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(os.Stderr, "torbpf: %v\n", err)
	return exitCode(err)
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case errors.As(err, &usage), isAny(err, config.ErrInvalid, plan.ErrNoInterface, plan.ErrUnknownInterface, plan.ErrLoopback):
		return exitUsage
	case errors.Is(err, router.ErrNotAttached):
		return exitNotAttached
	case errors.Is(err, router.ErrStopped):
		return exitLeak
	case isAny(err, router.ErrPrivilege, kernel.ErrMissing):
		return exitKernel
	default:
		return exitFailed
	}
}

// isAny tells whether an error is one of several; what else a host does not
// allow (other refusals of internal/plan) is no error of usage.
func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// knownCommand takes what is left of the command line for the name of a command
// that does not exist.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2 // letters that may be mistyped
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += fmt.Sprintf(": did you mean %s?", strings.Join(near, " or "))
	}
	return usageError{err: errors.New(text), command: cmd.CommandPath()}
}

// usageArgs makes what a check of the arguments finds an error of usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err: err, command: cmd.CommandPath()}
		}
		return nil
	}
}

// newRouter returns the router of this namespace; its progress goes to stderr.
func newRouter() (*router.Router, error) {
	return router.New(router.Options{
		Version: version,
		Notify:  func(line string) { fmt.Fprintln(os.Stderr, line) },
	})
}

func warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(os.Stderr, "warning: %s\n", w)
	}
}
