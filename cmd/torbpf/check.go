package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/router"
)

// errUnsound is what check returns for problems that are no alarm.
var errUnsound = errors.New("not all is as it should be")

func newCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell by the exit code whether all layers stand and nothing got as far as the last guards",
		Long: `check looks at every layer. Exit code 0: all stand, and the last guards have
stopped nothing since attach. 1: something is missing or changed. 3: nothing is
attached. 4: an alarm; packets got as far as the last guards, which stopped them.
torbpf attach acknowledges an alarm.`,
	}
	return newNoun(cmd, func(ctx context.Context, r *router.Router) (shown, error) {
		status, err := r.Status(ctx)
		if err != nil {
			return shown{}, err
		}
		alarms, unread := r.Alarms()
		return shown{
			json:    map[string]any{"schema": 1, "stopped": status.Stopped, "problems": status.Problems, "alarms": append([]router.Alarm{}, alarms...)},
			print:   func(w io.Writer) error { return printCheck(w, status, alarms) },
			verdict: errors.Join(verdict(status), unread),
		}, nil
	})
}

func verdict(s *router.Status) error {
	if err := alarm(s); err != nil || len(s.Problems) == 0 {
		return err
	}
	return errUnsound
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
	printProblems(w, s)
	if len(s.Problems) > 0 {
		return nil
	}
	_, err := fmt.Fprintln(w, "all layers stand")
	return err
}
