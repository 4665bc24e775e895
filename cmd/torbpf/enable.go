package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/service"
)

func newEnable() *cobra.Command {
	var file string
	var save bool
	cmd := &cobra.Command{
		Use:   "enable",
		Short: "Have what is attached survive a reboot",
		Long: `enable writes what is attached to the configuration file, if there is none yet,
and has the service manager start ` + "`torbpf run`" + ` now and at every boot, before the
network comes up.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			if err := service.Find(cmd.Context()); err != nil {
				return err
			}
			wrote, err := r.SaveConfig(file, save)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if wrote {
				fmt.Fprintf(out, "wrote %s\n", file)
			} else {
				fmt.Fprintf(out, "%s stays as it is (--save writes what is attached now)\n", file)
			}
			if err := service.Enable(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintln(out, "torbpf runs now, and at every boot before the network comes up")
			return nil
		},
	}
	cmd.Flags().BoolVar(&save, "save", false, "overwrite the configuration file with what is attached")
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file")
	return cmd
}

func newDisable() *cobra.Command {
	return &cobra.Command{
		Use:   "disable",
		Short: "No longer start at boot; what is attached stays until detach",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := service.Find(cmd.Context()); err != nil {
				return err
			}
			if err := service.Disable(cmd.Context()); err != nil {
				return err
			}
			r, err := newRouter()
			if err != nil {
				return err
			}
			if err := r.ForgetGuarded(); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "torbpf does not start at boot any more; what is attached stays until `torbpf detach --all`")
			return nil
		},
	}
}
