package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

func newExclude() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exclude",
		Short: "Say what goes direct instead of through Tor, and for how long",
		Args:  knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{err: errors.New("add, del or list?"), command: cmd.CommandPath()}
		},
	}
	cmd.AddCommand(newExcludeAdd(), newExcludeDel(), newExcludeList())
	return cmd
}

// kindFlags say what kind of thing the arguments are; without one, destinations.
var kindFlags = []struct {
	name string
	kind config.Kind
	help string
}{
	{"source", config.KindSource, "the arguments are prefixes of sources"},
	{"mark", config.KindMark, "the arguments are fwmarks: VALUE or VALUE/MASK"},
	{"port", config.KindPort, "the arguments are destination ports or protocols: 22/tcp, icmp, 53/udp@10.8.0.1"},
	{"device", config.KindDevice, "the arguments are devices, by their names or hardware addresses"},
	{"domain", config.KindDomain, "the arguments are names: bank.example, or *.bank.example for all below it"},
	{"interface", config.KindInterface, "the arguments are interfaces that packets leave by, such as wg0"},
	{"list", config.KindList, "the arguments are files of destinations, such as a country's: absolute paths"},
	{"user", config.KindUser, "the arguments are users of this machine, whose programs send it: names or numbers"},
	{"cgroup", config.KindCgroup, "the arguments are control groups of this machine, such as /system.slice/ntpsec.service"},
	{"program", config.KindProgram, "the arguments are executable files of this machine: absolute paths"},
}

// excludeFlags are those of add and del.
type excludeFlags struct {
	kinds   map[config.Kind]*bool
	policy  string
	comment string
	// resolver is for excluded names.
	resolver string
	asJSON   bool
	client   bool
	options  router.ExcludeOptions
}

func (f *excludeFlags) register(cmd *cobra.Command) {
	f.kinds = make(map[config.Kind]*bool)
	for _, k := range kindFlags {
		f.kinds[k.kind] = cmd.Flags().Bool(k.name, false, k.help)
	}
	cmd.Flags().BoolVar(&f.client, "client", false, "it is about what this machine itself sends, not its LANs")
	cmd.Flags().BoolVar(&f.options.Save, "save", false, "write it down beside the configuration file, so that a reboot does not undo it")
	cmd.Flags().StringVar(&f.options.File, "config", config.DefaultFile, "the configuration file beside which --save writes")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the changes as JSON")
}

func newExcludeAdd() *cobra.Command {
	f := excludeFlags{}
	cmd := &cobra.Command{
		Use:   "add PREFIX...",
		Short: "Let destinations, or with a flag something else, go direct",
		Long: `add lets traffic go direct, with the router's own NAT: to a destination or one of its
ports (--port), from a --source or a --device, with a --mark (fwmark) that your own
rules set, or whatever is routed to an --interface. With --for it ends by itself, and
nobody has to be alive for that. DNS stays Tor's, but for an excluded source or device,
which asks whom it likes, and for a rule that names port 53.

With --client it is about what this machine itself sends, where that is on Tor (torbpf attach
--client): a destination, a port, a mark or an interface. So it is with --user, --cgroup and
--program, which say who sends it; whoever is excluded so asks names directly as well.

With --domain, devices reach the addresses that they are told for a name. It is asked of the
--resolver, in clear, so there has to be one, here or in the configuration.

With --list, the destinations in a file are let go direct, one prefix or address a line;
torbpf run reads it again when it changes, torbpf attach as well.

Of several rules that match a packet the most specific one counts, so --policy tor takes
a part back from something that goes direct, be that by a list or a name; --policy block
is for sources and devices.
What a wider rule says already is not added, and narrower rules that say the same are
absorbed.`,
		Example: `  sudo torbpf exclude add 104.16.0.0/13 --for 30m --comment "the bank"
  sudo torbpf exclude add 104.17.0.0/16 --policy tor
  sudo torbpf exclude add --port 22/tcp icmp
  sudo torbpf exclude add --source 192.168.1.7
  sudo torbpf exclude add --device 02:00:5e:10:00:01 --for 10m
  sudo torbpf exclude add --mark 0x100/0xff00
  sudo torbpf exclude add --interface wg0
  sudo torbpf exclude add --domain bank.example --resolver 192.0.2.53
  sudo torbpf exclude add --list /etc/torbpf/lists/de.txt
  sudo torbpf exclude add --client --port 123/udp
  sudo torbpf exclude add --user _chrony
  sudo torbpf exclude add --program /usr/bin/signal-desktop`,
		Args: usageArgs(someEntry),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, false, args) },

		ValidArgsFunction: f.complete(false),
	}
	f.register(cmd)
	cmd.Flags().Var(life{&f.options.Life}, "for", "how long it holds, such as 30m, 12h or 7d; without this until it is removed")
	cmd.Flags().StringVar(&f.policy, "policy", string(config.PolicyDirect), "direct, tor or block")
	completeFlags(cmd, map[string][]string{"policy": {string(config.PolicyDirect), string(config.PolicyTor), string(config.PolicyBlock)}})
	cmd.Flags().StringVar(&f.comment, "comment", "", "what it is for")
	cmd.Flags().StringVar(&f.resolver, "resolver", "", "the resolver that excluded names are asked of, in clear; it stays until another is named")
	cmd.Flags().BoolVar(&f.options.Force, "force", false, "allow an exclusion of everything")
	cmd.Flags().BoolVar(&f.options.Forwarding, "enable-forwarding", false, "turn the kernel's forwarding on, where it is off, until detach")
	return cmd
}

func newExcludeDel() *cobra.Command {
	f := excludeFlags{policy: string(config.PolicyDirect)}
	cmd := &cobra.Command{
		Use:   "del PREFIX...",
		Short: "Put them back on Tor; connections that were direct are cut",

		SuggestFor: []string{"rm", "remove", "delete"},

		Args: usageArgs(someEntry),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, true, args) },

		ValidArgsFunction: f.complete(true),
	}
	f.register(cmd)
	return cmd
}

// allFlags lists kindFlags in words.
func allFlags() string {
	var names []string
	for _, k := range kindFlags {
		names = append(names, "--"+k.name)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func someEntry(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("which? give prefixes such as 104.16.0.0/13, or something else with " + allFlags())
	}
	return nil
}

// kind is what the flags say of the arguments.
func (f *excludeFlags) kind() (config.Kind, error) {
	kind, names := config.KindDestination, []string{}
	for _, k := range kindFlags {
		if *f.kinds[k.kind] {
			kind, names = k.kind, append(names, "--"+k.name)
		}
	}
	if len(names) > 1 {
		return "", fmt.Errorf("%s are about different things: give one at a time", strings.Join(names, " and "))
	}
	return kind, nil
}

func (f *excludeFlags) rules(cmd *cobra.Command, r *router.Router, args []string) (config.Rules, error) {
	if cmd.Flags().Changed("for") && f.options.Life <= 0 {
		return nil, usageError{err: fmt.Errorf("--for %s is over before it begins: give a time such as 30m", shortTime(f.options.Life)), command: cmd.CommandPath()}
	}
	kind, err := f.kind()
	if err != nil {
		return nil, usageError{err: err, command: cmd.CommandPath()}
	}
	var rules config.Rules
	for _, arg := range args {
		entry, err := entryOf(r, kind, arg)
		if err != nil {
			return nil, err
		}
		entry.Client = entry.Client || f.client
		rules = append(rules, config.Rule{Entry: entry, Policy: config.Policy(f.policy), Comment: f.comment})
	}
	return rules, nil
}

// entryOf reads one argument. A device may be named as well.
func entryOf(r *router.Router, kind config.Kind, arg string) (config.Entry, error) {
	if kind == config.KindDevice && config.CheckDeviceName(arg) == nil {
		entries, err := r.WhoIs([]string{arg})
		if err != nil {
			return config.Entry{}, err
		}
		return entries[0], nil
	}
	entry, err := config.ParseEntry(kind, arg)
	if err != nil && kind == config.KindDestination {
		err = meant(err, arg)
	}
	return entry, err
}

func (f *excludeFlags) run(cmd *cobra.Command, remove bool, args []string) error {
	r, err := newRouter()
	if err != nil {
		return err
	}
	rules, err := f.rules(cmd, r, args)
	if err != nil {
		return err
	}
	if f.resolver != "" {
		if f.options.Resolver, err = netip.ParseAddr(f.resolver); err != nil {
			return usageError{err: fmt.Errorf("--resolver %s is no address: give one such as 192.0.2.53", f.resolver), command: cmd.CommandPath()}
		}
	}
	f.options.By = commandName(cmd)
	changes, warnings, err := r.Exclude(cmd.Context(), remove, rules, f.options)
	if err != nil {
		return err
	}
	warn(warnings)
	return printChanges(cmd.OutOrStdout(), changes, f.asJSON)
}

// printChanges prints what has become of each rule.
func printChanges(w io.Writer, changes []config.Change, asJSON bool) error {
	if asJSON {
		return printJSON(w, map[string]any{"schema": 1, "changes": append([]config.Change{}, changes...)})
	}
	for _, c := range changes {
		fmt.Fprintln(w, c)
	}
	return nil
}

func newExcludeList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the rules: what goes direct, and until when",
		Long: `list shows the rules, what is in lists, and who is asked for excluded names. In its JSON
until is by the time of day, ends_ns by the kernel's clock since boot (CLOCK_BOOTTIME), which
is what a rule ends by.`}
	return newNoun(cmd, func(_ context.Context, r *router.Router) (shown, error) {
		rules, err := r.Rules()
		if err != nil {
			return shown{}, err
		}
		resolver, err := r.Resolver()
		if err != nil {
			return shown{}, err
		}
		lists, err := r.Lists()
		return shown{
			json:  map[string]any{"schema": 2, "rules": append(config.Rules{}, rules...), "lists": lists},
			print: func(w io.Writer) error { return listRules(w, rules, lists, resolver) },
		}, err
	})
}
