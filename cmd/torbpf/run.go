package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/daemon"
)

func newRun() *cobra.Command {
	var file string
	var blockOnly bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep the configured interfaces on Tor, and repair what is taken away (for a service manager)",
		Long: `run keeps what a configuration file names on Tor, in the foreground. First of
all it blocks the interfaces by their names, present or not; then it attaches
them as they appear. It repairs within a second what of torbpf is taken away,
follows addresses and routes, and starts a tor anew that is gone or hangs.

Without a configuration file it keeps what is attached. SIGHUP reads the file
again; what commands have changed stays until the file does. Told to stop, it leaves everything as it is: ` + "`torbpf detach --all`" + `
lets traffic out directly.

A service manager that starts the network without waiting until a daemon is ready
(sd_notify) runs it with --block-only first, which returns once the interfaces are
blocked.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
			options := daemon.Options{Router: r, Version: version, File: file, Log: log}
			if blockOnly {
				return daemon.Block(cmd.Context(), options)
			}
			return daemon.Run(cmd.Context(), options)
		},
	}
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file")
	cmd.Flags().BoolVar(&blockOnly, "block-only", false, "block what is not attached yet of the configured interfaces, and end")
	return cmd
}

// withoutTime leaves the time to whoever keeps the log, where that is journald.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && os.Getenv("JOURNAL_STREAM") != "" {
		return slog.Attr{}
	}
	return a
}
