package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/router"
)

func newTorCircuits() *cobra.Command {
	var targets bool
	cmd := &cobra.Command{
		Use:   "circuits",
		Short: "List the circuits that can be used, their relays, and the devices that have used them",
		Long: `circuits lists what tor has built: the relays, the guard first and where tor has a database of
places with their countries, how old it is, and the devices that have used it. Devices have
circuits of their own. "?" stands for whoever has used one before anybody looked, "others" for
this machine itself, or whom else a system tor serves.

Where devices go is not shown unless --targets asks for it.`,
	}
	newNoun(cmd, func(ctx context.Context, r *router.Router) (shown, error) {
		found, err := r.Circuits(ctx, targets)
		return shown{
			json:  map[string]any{"schema": 1, "circuits": found},
			print: func(w io.Writer) error { return listCircuits(w, found, time.Now()) },
		}, err
	})
	cmd.Flags().BoolVar(&targets, "targets", false, "show where open connections go")
	return cmd
}

func listCircuits(w io.Writer, found []router.CircuitStatus, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "TOR\tCIRCUIT\tPURPOSE\tAGE\tPATH\tDEVICES")
	for _, c := range found {
		var path []string
		for _, hop := range c.Path {
			name := relayWords(hop.Relay)
			if hop.Country != "" {
				name += " (" + hop.Country + ")"
			}
			path = append(path, name)
		}
		age := shortTime(max(0, now.Sub(c.Created)).Round(time.Second))
		fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\t%s\n", c.Instance, c.ID, strings.ToLower(c.Purpose), age, strings.Join(path, " > "), usersOf(c))
		for _, target := range c.Targets {
			fmt.Fprintf(t, "\t\t\t\tto %s\t\n", target)
		}
	}
	return t.Flush()
}

// usersOf names who has used a circuit.
func usersOf(c router.CircuitStatus) string {
	users := append([]string{}, c.Devices...)
	if c.Others {
		users = append(users, "others")
	}
	if !c.Known {
		users = append(users, "?")
	}
	if len(users) == 0 {
		return "-"
	}
	return strings.Join(users, ", ")
}

func atMostOneDevice(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return errors.New("give one device, or none for all")
	}
	return nil
}

func newTorNewnym() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "newnym [DEVICE]",
		Short: "Have what begins from now on use new circuits: of all, or of one device",
		Long: `newnym without a device tells every tor to use new circuits for what anybody begins from now
on; connections that are open go on by theirs. tor does that once in 10 seconds at most, and the
command returns when it has.

With a device it closes every circuit that the device has used, with its connections: nothing
that it does later goes by one of them. Circuits and connections of others go on. What the
device itself keeps, such as cookies, says who it is all the same.`,
		Example: `  sudo torbpf tor newnym
  sudo torbpf tor newnym kitchen-tv`,
		Args: usageArgs(atMostOneDevice),

		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			var done *router.Newnym
			if len(args) == 0 {
				done, err = r.NewCircuits(cmd.Context())
			} else {
				done, err = r.NewCircuitsFor(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, struct {
					Schema int `json:"schema"`
					*router.Newnym
				}{1, done})
			}
			_, err = fmt.Fprintln(out, done)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}
