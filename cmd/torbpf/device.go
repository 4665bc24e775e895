package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

func newDevice() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "device",
		Short: "Who is behind the LANs, and what each device may do",
		Args:  knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{err: errors.New("list, allow, block, tor or name?"), command: cmd.CommandPath()}
		},
	}
	cmd.AddCommand(newDeviceList(), newDeviceName(),
		newDevicePolicy("allow", config.PolicyDirect, "Let a device go direct, past Tor, for a while or for good"),
		newDevicePolicy("block", config.PolicyBlock, "Let a device nowhere but to its neighbours' link"),
		newDeviceTor())
	return cmd
}

// registerSave adds the flags of those who change something.
func registerSave(cmd *cobra.Command, o *router.ExcludeOptions) {
	cmd.Flags().BoolVar(&o.Save, "save", false, "write it down beside the configuration file, so that a reboot does not undo it")
	cmd.Flags().StringVar(&o.File, "config", config.DefaultFile, "the configuration file beside which --save writes")
}

func someDevice(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("which? give a device's name, its hardware address or an address of it: torbpf device list shows them")
	}
	return nil
}

func newDevicePolicy(verb string, policy config.Policy, short string) *cobra.Command {
	var o router.ExcludeOptions
	var comment string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     verb + " DEVICE...",
		Short:   short,
		Example: "  sudo torbpf device " + verb + " kitchen-tv --for 10m",
		Args:    usageArgs(someDevice),

		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("for") && o.Life <= 0 {
				return usageError{err: fmt.Errorf("--for %s is over before it begins: give a time such as 10m", shortTime(o.Life)), command: cmd.CommandPath()}
			}
			return changeDevices(cmd, args, policy, comment, o, asJSON)
		},
	}
	registerSave(cmd, &o)
	cmd.Flags().Var(life{&o.Life}, "for", "how long it holds, such as 10m or 2d; without this until torbpf device tor")
	cmd.Flags().StringVar(&comment, "comment", "", "what it is for")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the changes as JSON")
	return cmd
}

func newDeviceTor() *cobra.Command {
	var o router.ExcludeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tor DEVICE...",
		Short: "Put devices back on Tor; their connections that were direct are cut",
		Long: `tor takes back what allow and block have said of devices, of all that are given or of none.
A device that a rule for sources lets out, or would with another address, is taken out of
that by a rule of its own.`,
		Args: usageArgs(someDevice),

		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			o.By = commandName(cmd)
			changes, warnings, err := r.BackToTor(cmd.Context(), args, o)
			return tellChanges(cmd.OutOrStdout(), changes, warnings, err, asJSON)
		},
	}
	registerSave(cmd, &o)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the changes as JSON")
	return cmd
}

func changeDevices(cmd *cobra.Command, who []string, policy config.Policy, comment string, o router.ExcludeOptions, asJSON bool) error {
	r, err := newRouter()
	if err != nil {
		return err
	}
	entries, err := r.WhoIs(who)
	if err != nil {
		return err
	}
	var rules config.Rules
	for _, e := range entries {
		rules = append(rules, config.Rule{Entry: e, Policy: policy, Comment: comment})
	}
	o.By, o.Devices = commandName(cmd), true
	changes, warnings, err := r.Exclude(cmd.Context(), false, rules, o)
	return tellChanges(cmd.OutOrStdout(), changes, warnings, err, asJSON)
}

func tellChanges(w io.Writer, changes []config.Change, warnings []string, err error, asJSON bool) error {
	if err != nil {
		return err
	}
	warn(warnings)
	return printChanges(w, changes, asJSON)
}

// commandName is a command as the audit has it.
func commandName(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

func deviceAndName(_ *cobra.Command, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("give the device, and what to call it: torbpf device name 02:00:5e:10:00:01 kitchen-tv")
	}
	return nil
}

func newDeviceName() *cobra.Command {
	var o router.ExcludeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "name DEVICE [NAME]",
		Short:   "Call a device something; without a name, nothing any more",
		Example: "  sudo torbpf device name 02:00:5e:10:00:01 kitchen-tv --save",
		Args:    usageArgs(deviceAndName),

		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := newRouter()
			if err != nil {
				return err
			}
			naming, warnings, err := r.NameDevice(cmd.Context(), args[0], strings.Join(args[1:], ""), o)
			if naming == nil {
				return err
			}
			warn(warnings)
			out := cmd.OutOrStdout()
			if asJSON {
				return errors.Join(err, printJSON(out, struct {
					Schema int `json:"schema"`
					*router.Naming
				}{1, naming}))
			}
			fmt.Fprintln(out, naming)
			return err
		},
	}
	registerSave(cmd, &o)
	cmd.Flags().BoolVar(&o.Force, "force", false, "take the name from another device that has it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the name as JSON")
	return cmd
}

func newDeviceList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the devices behind the LANs: what they are under, their traffic, their refusals",
		Long: `list shows what each device is under, and what it has sent since attach. What only an
exempt mark would let out that your own rules set later counts as refused.

Where the terminal is not wide enough for a line each, addresses, and hardware addresses of
devices with names, are on the next. Without a terminal COLUMNS says how wide it is, or it is 80.`}
	return newNoun(cmd, func(_ context.Context, r *router.Router) (shown, error) {
		devices, err := r.Devices()
		return shown{
			json:  map[string]any{"schema": router.DevicesSchema, "devices": append([]router.DeviceStatus{}, devices...)},
			print: func(w io.Writer) error { return listDevices(w, devices, terminalColumns()) },
		}, err
	})
}

// untilWords tells a time, and its day where that is another.
func untilWords(until, now time.Time) string {
	layout := time.TimeOnly
	if until.Sub(now) >= 24*time.Hour || until.Local().Day() != now.Local().Day() {
		layout = time.DateTime
	}
	return until.Local().Format(layout)
}

// size writes bytes in the unit that people read best.
func size(bytes uint64) string {
	const unit = 1000
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, prefix := float64(bytes), -1
	for value >= unit && prefix < 4 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %cB", value, "kMGTP"[prefix])
}
