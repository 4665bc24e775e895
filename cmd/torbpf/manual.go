package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/manual"
)

// newManual is for packages and `make install`, which have pages of the program that they
// install.
func newManual() *cobra.Command {
	var page manual.Page
	var reference string
	cmd := &cobra.Command{
		Use:    "manual",
		Short:  "Print torbpf(8) as a man page; with --reference torbpf.toml(5)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			page.Version = version
			if reference == "" {
				fmt.Fprint(cmd.OutOrStdout(), manual.Commands(page, cmd.Root(), statuses))
				return nil
			}
			text, err := os.ReadFile(reference)
			if err != nil {
				return fmt.Errorf("read the reference of the configuration: %w", err)
			}
			fmt.Fprint(cmd.OutOrStdout(), manual.File(page, string(text)))
			return nil
		},
	}
	cmd.Flags().StringVar(&reference, "reference", "", "the reference of the configuration, packaging/torbpf.toml")
	cmd.Flags().StringVar(&page.Date, "date", "", "the date of this version, as 2026-12-24")
	return cmd
}

// statuses are the exit codes, for the man page.
var statuses = []manual.Status{
	{Code: exitOK, Meaning: "Done."},
	{Code: exitFailed, Meaning: "It failed; stderr says why, and what to do next. `exclude del` of what is in no list ends so as well, and so does `doctor` where something is wrong."},
	{Code: exitUsage, Meaning: "The command line, or the configuration, cannot be understood or used."},
	{Code: exitNotAttached, Meaning: "Nothing is attached."},
	{Code: exitLeak, Meaning: "Packets got as far as the last guards, which stopped them (`status`, `check`)."},
	{Code: exitKernel, Meaning: "A feature of the kernel, or a privilege, is missing."},
}
