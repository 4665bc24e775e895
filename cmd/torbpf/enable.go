package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

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
network comes up.

Where there is neither systemd nor OpenRC nor procd, it writes the file all the same, says
what is to be started at boot, and ends with exit code 1, since nothing starts that yet.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			manager, alone := service.Find(cmd.Context())
			if alone != nil && !errors.Is(alone, service.ErrNoManager) {
				return alone
			}
			wrote, err := r.SaveConfig(file, save)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON && wrote && alone != nil: // what is not enabled in the end prints no object
				fmt.Fprintf(os.Stderr, "wrote %s\n", file)
			case asJSON:
			case wrote:
				fmt.Fprintf(out, "wrote %s\n", file)
			default:
				fmt.Fprintf(out, "%s stays as it is (--save writes what is attached now)\n", file)
			}
			if alone == nil {
				alone = manager.Enable(cmd.Context())
			}
			if errors.Is(alone, service.ErrNoManager) {
				return fmt.Errorf("%w: have it run %s at every boot before the network comes up, then %s, and that anew when it ends; until then a reboot removes all of this",
					alone, atBoot(file, "--block-only"), atBoot(file))
			}
			if alone != nil {
				return alone
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

// atBoot is the command that is to be started at boot.
func atBoot(file string, flags ...string) string {
	line := append([]string{"torbpf", "run"}, flags...)
	if file != config.DefaultFile {
		line = append(line, "--config", file)
	}
	return "`" + strings.Join(line, " ") + "`"
}

func newDisable() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "disable",
		Short: "No longer start at boot; what is attached stays until detach",
		Long: `disable ends ` + "`torbpf run`" + `, and has the service manager start it no more at boot. What is
attached stays until ` + "`torbpf detach --all`" + `, and the configuration file as it is.

Where there is neither systemd nor OpenRC nor procd, it says what is to be started at boot
no more, and ends with exit code 1, since whatever starts it does so still.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			manager, alone := service.Find(cmd.Context())
			if alone == nil {
				alone = manager.Disable(cmd.Context())
			}
			if alone != nil && !errors.Is(alone, service.ErrNoManager) {
				return alone
			}
			if err := r.ForgetGuarded(); err != nil {
				return err
			}
			if alone != nil {
				return fmt.Errorf("%w: have it run %s and %s no more at boot, and end the one that runs; what is attached stays until `torbpf detach --all`",
					alone, atBoot(config.DefaultFile, "--block-only"), atBoot(config.DefaultFile))
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
