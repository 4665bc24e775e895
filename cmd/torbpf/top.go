package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/internal/top"
)

// fastest is as often as top may look.
const fastest = 100 * time.Millisecond

func newTop() *cobra.Command {
	o := top.Options{Interval: time.Second}
	var sort string
	var once, asJSON bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch what each device sends, and what becomes of it",
		Long: `top shows in the terminal, each second, how much every device sends by Tor, directly,
within the LANs, and what of it is refused and why. Keys let a device go direct for
ten minutes, block it, or put it back on Tor; h lists them all.

Where standard output is no terminal, or one without a screen (TERM=dumb), it prints
text without escape codes each second, as wide as COLUMNS says or 80, and with --json
an object a line. Refusals are
sampled, at most a hundred a second; their numbers are exact.`,
		Example: "  sudo torbpf top\n  sudo torbpf top --once --sort refused",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Sort, err = top.ParseSort(sort); err != nil {
				return usageError{err: err, command: cmd.CommandPath()}
			}
			if o.Interval < fastest {
				return usageError{err: fmt.Errorf("--interval %s is too short: %s at least", shortTime(o.Interval), fastest), command: cmd.CommandPath()}
			}
			return watchTop(cmd, o, once, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.Var(life{&o.Interval}, "interval", "how often to look, such as 2s")
	flags.StringVar(&sort, "sort", top.ByAll.String(), "sort by "+strings.Join(top.SortNames(), ", "))
	flags.StringVar(&o.Filter, "filter", "", "only devices with this in their names, addresses or policies, and their refusals")
	flags.BoolVar(&once, "once", false, "print one interval as text and end")
	flags.BoolVar(&asJSON, "json", false, "print an object a line")
	completeFlags(cmd, map[string][]string{"sort": top.SortNames()})
	return cmd
}

// watchTop takes a screen where there is one, and lines elsewhere.
func watchTop(cmd *cobra.Command, o top.Options, once, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	if !once && !asJSON && isTerminal(os.Stdin) && isTerminal(os.Stdout) {
		notices := make(chan string, 1)
		r, err := router.New(router.Options{Version: version, Notify: latest(notices)})
		if err != nil {
			return err
		}
		if err := top.Screen(ctx, r, o, notices); !errors.Is(err, top.ErrNoScreen) {
			return err
		}
	}
	r, err := newRouter()
	if err != nil {
		return err
	}
	o.Columns = terminalColumns()
	return top.Print(ctx, r, o, cmd.OutOrStdout(), once, asJSON)
}

// latest passes lines on, of which one that nobody has read makes room for the next.
func latest(to chan string) func(string) {
	return func(line string) {
		for {
			select {
			case to <- line:
				return
			default:
			}
			select {
			case <-to:
			default:
			}
		}
	}
}
