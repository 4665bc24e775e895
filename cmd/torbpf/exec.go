package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/cell"
	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/router"
)

// stageCommand is what the first process of a cell is called by.
const stageCommand = "exec-stage"

func newExec() *cobra.Command {
	var direct, onTor bool
	var user, file string
	cmd := &cobra.Command{
		Use:                   "exec (--direct | --tor) [--user USER] -- COMMAND [ARG...]",
		DisableFlagsInUseLine: true, // they are before the command

		Short: "Run one program, and all it starts, outside Tor or through it",
		Long: `exec runs one program, and all that it starts, otherwise than the rest of this
machine: with --direct outside Tor while torbpf attach --client is on, with --tor
through Tor while it is not. The program has the terminal, environment and working
directory of the caller, its standard input, output and error and no other open file,
and, through sudo, the user who called sudo. What it leaves running ends with it. The
exit code is the program's, 128 and the signal's number if a signal ended it, 127 if
there is no such program, 126 if it cannot be executed.

--tor is for static programs as well, since the kernel tells the program's sockets from
others. It begins when Tor is ready, and whatever Tor cannot carry is refused. All its
DNS goes through Tor, whichever server it asks; the sockets of nscd, systemd-resolved
and Avahi, which would ask in its place, are hidden from it. It gains no privilege:
sudo, su and ping with file capabilities do not work in it. Root's programs (--user
root) lose the capabilities that would lead around Tor. 32-bit x86 programs that use
socketcall get no sockets. Variables that name proxies are taken from its environment, and
to it /sys and /proc/sys are read-only.
What it cannot hold back is a program that asks other programs to fetch things: over
D-Bus, of a browser that is open already, of a container engine.

--direct asks names directly as well, of the servers that systemd-resolved knows, where
resolved is what would answer. That is what the sign-in page of a hotel's network needs.`,
		Example: `  sudo torbpf exec --direct -- firefox --no-remote http://neverssl.com/
  sudo torbpf exec --tor -- curl https://check.torproject.org/
  sudo torbpf exec --tor --user root -- apt-get update`,
		Args: func(cmd *cobra.Command, args []string) error {
			if direct == onTor {
				return usageError{err: errors.New("say one of --direct and --tor"), command: cmd.CommandPath()}
			}
			if len(args) == 0 {
				return usageError{err: errors.New("which command? give it behind --"), command: cmd.CommandPath()}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			policy := config.PolicyTor
			if direct {
				policy = config.PolicyDirect
			}
			if cmd.Flags().Changed("config") {
				if _, err := config.LoadPart(file); err != nil {
					return err
				}
			}
			return execute(cmd, file, cell.Options{Policy: policy, User: user, Command: args, Stage: []string{stageCommand}})
		},
	}
	cmd.Flags().BoolVar(&direct, "direct", false, "outside Tor, while this machine is on it")
	cmd.Flags().BoolVar(&onTor, "tor", false, "through Tor, while this machine is not on it")
	cmd.Flags().StringVar(&user, "user", "", "whom to run it as, a name or number (default: who called sudo, else root)")
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file whose [tor] counts where nothing is attached")
	cmd.Flags().SetInterspersed(false) // what follows the command is the command's
	return cmd
}

// cellRouter is the router as cells see it.
type cellRouter struct {
	*router.Router
	file string
	bar  *bootstrapBar
}

// Begin lets the group's traffic go by the policy.
func (r cellRouter) Begin(ctx context.Context, policy config.Policy, group cgroup.Group) error {
	err := r.BeginCell(ctx, r.file, policy, group, r.bar.show)
	r.bar.finish(err == nil)
	return err
}

// End forgets the group.
func (r cellRouter) End(ctx context.Context, group cgroup.Group) error {
	return r.EndCell(ctx, group)
}

// execute ends this process with the program's exit code; the table in exit.go is for
// torbpf's own.
func execute(cmd *cobra.Command, file string, o cell.Options) error {
	if os.Geteuid() != 0 {
		return router.ErrPrivilege
	}
	ns, err := host.Namespace()
	if err != nil {
		return err
	}
	o.Namespace = ns.Name
	r, err := newRouter()
	if err != nil {
		return err
	}
	o.Router = cellRouter{r, file, newBootstrapBar(!isTerminal(os.Stderr))}
	code, err := cell.Run(cmd.Context(), o)
	switch {
	case errors.Is(err, router.ErrNotAttached):
		return fmt.Errorf("%w: everything of this machine is direct already, so run the command as it is", router.ErrNotAttached)
	case err != nil && exitCode(err) != exitFailed:
		return err
	case err != nil:
		fmt.Fprintf(os.Stderr, "torbpf: %v\n", err)
	}
	os.Exit(code)
	return nil
}

// newExecStage is the first process of a cell; nobody types it.
func newExecStage() *cobra.Command {
	return &cobra.Command{
		Use:    stageCommand,
		Short:  "Become the program that exec runs (started by exec)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(*cobra.Command, []string) error { return cell.Stage() },
	}
}
