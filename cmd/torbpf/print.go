package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/torbpf/torbpf/internal/router"
)

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}

// shown is what a noun has to say.
type shown struct {
	json    any
	print   func(io.Writer) error
	verdict error // about what was read, once it is printed
}

// newNoun completes a command that reads and prints, as text or as JSON.
func newNoun(cmd *cobra.Command, read func(context.Context, *router.Router) (shown, error)) *cobra.Command {
	var asJSON bool
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := newRouter()
		if err != nil {
			return err
		}
		s, err := read(cmd.Context(), r)
		if err != nil {
			return err
		}
		print := s.print
		if asJSON {
			print = func(w io.Writer) error { return printJSON(w, s.json) }
		}
		return errors.Join(s.verdict, print(cmd.OutOrStdout()))
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
