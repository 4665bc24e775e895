package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/service"
)

func newEnable() *cobra.Command {
	var file string
	var save, asJSON bool
	cmd := &cobra.Command{
		Use:   "enable",
		Short: "Have what is attached survive a reboot",
		Long: `enable writes what is attached to the configuration file, if there is none yet,
and has the service manager start ` + "`torbpf run`" + ` now and at every boot, before the
network comes up.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			manager, err := service.Find(cmd.Context())
			if err != nil {
				return err
			}
			wrote, err := r.SaveConfig(file, save)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON: // what is not enabled in the end prints none
			case wrote:
				fmt.Fprintf(out, "wrote %s\n", file)
			default:
				fmt.Fprintf(out, "%s stays as it is (--save writes what is attached now)\n", file)
			}
			if err := manager.Enable(cmd.Context()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, map[string]any{"schema": 1, "file": file, "wrote": wrote})
			}
			fmt.Fprintln(out, "torbpf runs now, and at every boot before the network comes up")
			return nil
		},
	}
	cmd.Flags().BoolVar(&save, "save", false, "overwrite the configuration file with what is attached")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file")
	return cmd
}

func newDisable() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "disable",
		Short: "No longer start at boot; what is attached stays until detach",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			manager, err := service.Find(cmd.Context())
			if err != nil {
				return err
			}
			if err := manager.Disable(cmd.Context()); err != nil {
				return err
			}
			if err := r.ForgetGuarded(); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"schema": 1})
			}
			fmt.Fprintln(cmd.OutOrStdout(), "torbpf does not start at boot any more; what is attached stays until `torbpf detach --all`")
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}
