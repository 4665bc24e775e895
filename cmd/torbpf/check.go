package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/router"
)

// What check returns where there is no alarm.
var (
	errUnsound  = errors.New("not all is as it should be")
	errNotReady = errors.New("clients are refused")
)

func newCheck() *cobra.Command {
	var layers bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell by the exit code whether all layers stand, clients are served, and the last guards had nothing to stop",
		Long: `check looks at every layer, and whether Tor is ready. Exit code 0: all stand, clients are
served, and the last guards have stopped nothing since attach. 1: something is missing or
changed, or Tor is not ready, so that clients are refused; with --layers the latter is
told and counts for nothing. 3: nothing is attached. 4: an alarm; packets got as far as
the last guards, which stopped them. torbpf attach acknowledges an alarm.`,
	}
	cmd.Flags().BoolVar(&layers, "layers", false, "judge the layers alone, not whether Tor is ready")
	return newNoun(cmd, func(ctx context.Context, r *router.Router) (shown, error) {
		status, err := r.Status(ctx)
		if err != nil {
			return shown{}, err
		}
		alarms, unread := r.Alarms()
		return shown{
			json:    map[string]any{"schema": 1, "stopped": status.Stopped, "ready": status.Ready, "problems": status.Problems, "alarms": append([]router.Alarm{}, alarms...)},
			print:   func(w io.Writer) error { return printCheck(w, status, alarms) },
			verdict: errors.Join(verdict(status, layers), unread),
		}, nil
	})
}

func verdict(s *router.Status, layers bool) error {
	switch err := alarm(s); {
	case err != nil:
		return err
	case len(s.Problems) > 0:
		return errUnsound
	case !s.Ready && !layers:
		return errNotReady
	}
	return nil
}

// alarmsShown is how many alarms check prints, the first ones: they tell what
// began it.
const alarmsShown = 10

func printCheck(w io.Writer, s *router.Status, alarms []router.Alarm) error {
	fmt.Fprintf(w, "last guards stopped: %d packets\n", s.Stopped)
	for i, a := range alarms {
		if i == alarmsShown {
			fmt.Fprintf(w, "  and %d more\n", len(alarms)-i)
			break
		}
		fmt.Fprintf(w, "  %s %s on %s: protocol %d, %s > %s, %d bytes\n",
			a.Time.Format("2006-01-02 15:04:05"), a.Reason, a.Interface, a.Protocol, a.Src, a.Dst, a.Length)
	}
	headers := "their headers are above"
	if len(alarms) == 0 {
		headers = "nobody kept their headers: those at an uplink are kept while `torbpf run` is at work, see torbpf enable"
	}
	printProblems(w, s, headers)
	if len(s.Problems) == 0 {
		fmt.Fprintln(w, "all layers stand")
	}
	if !s.Ready && s.Tor.Alive {
		fmt.Fprintf(w, "Tor is not ready (%d%%: %s): clients are refused\n", s.Tor.Percent, s.Tor.Summary)
	}
	return nil
}
