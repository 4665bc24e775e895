package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

func newExclude() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exclude",
		Short: "Say what goes direct instead of through Tor",
		Args:  knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{err: errors.New("add, del or list?"), command: cmd.CommandPath()}
		},
	}
	cmd.AddCommand(newExcludeChange(false), newExcludeChange(true), newExcludeList())
	return cmd
}

// excludeFlags say what kind of thing an argument of add or del is.
type excludeFlags struct {
	source, mark bool
	asJSON       bool
	options      router.ExcludeOptions
}

func newExcludeChange(remove bool) *cobra.Command {
	var f excludeFlags
	cmd := &cobra.Command{
		Use:   "add PREFIX...",
		Short: "Let destinations, or with a flag sources or marks, go direct",
		Long: `add lets traffic go direct, with the router's own NAT: to a destination, from a
--source, or with a --mark (fwmark) that your own rules set. DNS stays Tor's, but
for an excluded source, which asks whom it likes.
What covers an entry already makes it unnecessary; wider entries absorb
narrower ones.`,
		Example: `  sudo torbpf exclude add 104.16.0.0/13
  sudo torbpf exclude add --source 192.168.1.7
  sudo torbpf exclude add --mark 0x100/0xff00`,
		Args: usageArgs(someEntry),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, remove, args)
		},
	}
	if remove {
		cmd.Use = "del PREFIX..."
		cmd.Short = "Put them back on Tor; connections that were direct are cut"
		cmd.Long, cmd.Example = "", ""
	} else {
		cmd.Flags().BoolVar(&f.options.Force, "force", false, "allow an exclusion of everything")
		cmd.Flags().BoolVar(&f.options.Forwarding, "enable-forwarding", false, "turn the kernel's forwarding on, where it is off, until detach")
	}
	cmd.Flags().BoolVar(&f.source, "source", false, "the arguments are source prefixes")
	cmd.Flags().BoolVar(&f.mark, "mark", false, "the arguments are fwmarks: VALUE or VALUE/MASK")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the changes as JSON")
	return cmd
}

func someEntry(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("which? give prefixes such as 104.16.0.0/13, or marks with --mark")
	}
	return nil
}

func (f *excludeFlags) run(cmd *cobra.Command, remove bool, args []string) error {
	kind := config.KindDestination
	switch {
	case f.source && f.mark:
		return usageError{err: errors.New("--source and --mark exclude different things: give one at a time"), command: cmd.CommandPath()}
	case f.source:
		kind = config.KindSource
	case f.mark:
		kind = config.KindMark
	}
	var entries []config.Entry
	for _, arg := range args {
		entry, err := config.ParseEntry(kind, arg)
		if err != nil {
			return err
		}
		entries = append(entries, entry)
	}
	r, err := newRouter()
	if err != nil {
		return err
	}
	changes, warnings, err := r.Exclude(cmd.Context(), remove, entries, f.options)
	if err != nil {
		return err
	}
	warn(warnings)
	return f.print(cmd.OutOrStdout(), changes)
}

func (f *excludeFlags) print(w io.Writer, changes []config.Change) error {
	if f.asJSON {
		type change struct {
			Kind    string `json:"kind"`
			Entry   string `json:"entry"`
			Outcome string `json:"outcome"`
		}
		out := []change{}
		for _, c := range changes {
			out = append(out, change{string(c.Entry.Kind), c.Entry.String(), string(c.Outcome)})
		}
		return printJSON(w, map[string]any{"schema": 1, "changes": out})
	}
	for _, c := range changes {
		fmt.Fprintln(w, c)
	}
	return nil
}

func newExcludeList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what goes direct",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			e, err := r.Exclusions()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"schema": 1, "exclusions": e})
			}
			listExclusions(cmd.OutOrStdout(), e)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func listExclusions(w io.Writer, e config.Exclusions) {
	for _, p := range e.Destinations {
		fmt.Fprintf(w, "destination  %s\n", p)
	}
	for _, p := range e.Sources {
		fmt.Fprintf(w, "source       %s\n", p)
	}
	for _, m := range e.Marks {
		fmt.Fprintf(w, "mark         %s\n", m)
	}
	if len(e.Destinations)+len(e.Sources)+len(e.Marks) == 0 {
		fmt.Fprintln(w, "nothing is excluded")
	}
}
