package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/torbpf/torbpf/internal/access"
	"github.com/torbpf/torbpf/internal/api"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

func newPage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "page",
		Short: "The page that torbpf run serves: who may use it",
		Long: `page is about the page that ` + "`torbpf run`" + ` serves, at http://127.0.0.1:9959/ unless the
configuration says otherwise: login opens it, password sets what signs in from the LAN,
logout ends all that is signed in.`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{err: errors.New("login, password or logout?"), command: cmd.CommandPath()}
		},
	}
	cmd.AddCommand(newPageLogin(), newPagePassword(), newPageLogout())
	return cmd
}

func newPageLogin() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Print a link that opens the page, once and within five minutes",
		Long: `login prints a link that opens the page and signs in. It works once, within five minutes.
From another machine the page is reached by ssh -L 9959:127.0.0.1:9959 ROUTER; the link is
the same there.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			var login api.Login
			if err := api.Ask(cmd.Context(), r.APISocket(), "POST", "/v1/page/login", &login); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), login)
			}
			fmt.Fprintf(os.Stderr, "it works once, until %s\n", login.Ends.Local().Format(time.TimeOnly))
			fmt.Fprintln(cmd.OutOrStdout(), login.URL)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the link as JSON")
	return cmd
}

func newPageLogout() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "End all sessions of the page, and links that were not used",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			var logout api.Logout
			if err := api.Ask(cmd.Context(), r.APISocket(), "DELETE", "/v1/page/sessions", &logout); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), logout)
			}
			fmt.Fprintln(cmd.OutOrStdout(), counted(logout.Ended, "session has ended", "sessions have ended"))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}

func newPagePassword() *cobra.Command {
	var file string
	var remove, asJSON bool
	cmd := &cobra.Command{
		Use:   "password",
		Short: "Set the password of the page, for who uses it from the LAN",
		Long: `password asks for a password, twice on a terminal, else by one line of standard input, and
writes its hash where the configuration says ([web] password_file), for root alone. It takes
effect at once, and sessions end. Without a password nobody signs in but by torbpf page login.

The page speaks HTTP: whoever can listen on the LAN reads the password as it is typed.
On loopback, by ssh -L, nobody does.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			path, err := passwordFile(file)
			if err != nil {
				return err
			}
			if err := setPassword(cmd.InOrStdin(), path, remove); err != nil {
				return err
			}
			endSessions(cmd, r)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"schema": 1, "file": path, "set": !remove})
			}
			if remove {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is gone: only torbpf page login signs in\n", path)
			} else {
				fmt.Fprintf(cmd.OutOrStdout(), "%s has the password's hash\n", path)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file, which may say where")
	cmd.Flags().BoolVar(&remove, "remove", false, "have no password any more")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}

// newRootRouter is newRouter for who needs root, and says so before anything is typed.
func newRootRouter() (*router.Router, error) {
	if os.Geteuid() != 0 {
		return nil, router.ErrPrivilege
	}
	return newRouter()
}

// passwordFile is where a configuration has the password; one that is not there has it where
// all have by default.
func passwordFile(file string) (string, error) {
	cfg, err := config.LoadPart(file)
	if errors.Is(err, os.ErrNotExist) {
		cfg, err = config.Default(), nil
	}
	return cfg.Web.PasswordFile, err
}

func setPassword(in io.Reader, path string, remove bool) error {
	if remove {
		if err := config.RemoveFile(path); err != nil {
			return fmt.Errorf("remove the password: %w", err)
		}
		return nil
	}
	password, err := readPassword(in)
	if err != nil {
		return err
	}
	return access.WritePassword(path, password)
}

// readPassword asks twice where it is typed, so that a slip is no lock.
func readPassword(in io.Reader) (string, error) {
	terminal, ok := in.(*os.File)
	if !ok || !isTerminal(terminal) {
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	var typed [2]string
	for i, prompt := range []string{"password: ", "once more: "} {
		fmt.Fprint(os.Stderr, prompt)
		text, err := term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		typed[i] = string(text)
		if err := access.CheckPassword(typed[i]); err != nil {
			return "", err
		}
	}
	if typed[0] != typed[1] {
		return "", config.Invalid("the two are not the same, and the password is as it was: try again")
	}
	return typed[0], nil
}

// endSessions ends what another password let in. Where no daemon runs, there are none.
func endSessions(cmd *cobra.Command, r *router.Router) {
	var logout api.Logout
	if err := api.Ask(cmd.Context(), r.APISocket(), "DELETE", "/v1/page/sessions", &logout); err != nil {
		if _, gone := os.Stat(r.APISocket()); !errors.Is(gone, os.ErrNotExist) {
			warn([]string{fmt.Sprintf("sessions go on, if there are any: %v", err)})
		}
	}
}
