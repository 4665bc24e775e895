package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/router"
)

// completion offers words to the shell; what cannot be read, such as without root, it leaves
// out.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeInterfaces offers the interfaces of this namespace.
func completeInterfaces(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	facts, err := host.Read()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, l := range facts.Links {
		if !l.Loopback {
			names = append(names, l.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeLANs offers the interfaces that attach takes without --force.
func completeLANs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	facts, err := host.Read()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return lanNames(facts), cobra.ShellCompDirectiveNoFileComp
}

func lanNames(facts plan.Host) []string {
	return slices.DeleteFunc(plan.Candidates(config.Default(), facts), func(name string) bool {
		l, _ := facts.LinkByName(name)
		return l.Loopback
	})
}

// completeWith offers what a router knows.
func completeWith(words func(*router.Router) ([]string, error)) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		r, err := router.New(router.Options{Version: version}) // which has no progress to show
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, _ := words(r)
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

var completeAttached = completeWith((*router.Router).AttachedNames)

// completeDevices offers the names of devices, and the addresses of those without one.
var completeDevices = completeWith(func(r *router.Router) ([]string, error) {
	devices, err := r.Devices()
	var out []string
	for _, d := range devices {
		switch {
		case d.Name != "":
			out = append(out, d.Name)
		case d.MAC != "":
			out = append(out, d.MAC)
		}
	}
	return out, err
})

// complete offers what del can take back, and to add files where it reads them.
func (f *excludeFlags) complete(remove bool) completion {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		kind, err := f.kind()
		switch {
		case err != nil:
			return nil, cobra.ShellCompDirectiveNoFileComp
		case remove:
			return completeWith(func(r *router.Router) ([]string, error) { return rulesOf(r, kind, f.client) })(cmd, args, word)
		case kind == config.KindList, kind == config.KindProgram:
			return nil, cobra.ShellCompDirectiveDefault
		case kind == config.KindDevice:
			return completeDevices(cmd, args, word)
		case kind == config.KindInterface:
			return completeInterfaces(cmd, args, word)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// rulesOf lists what rules of a kind match.
func rulesOf(r *router.Router, kind config.Kind, client bool) ([]string, error) {
	rules, err := r.Rules()
	var out []string
	for _, rule := range rules.Of(kind) {
		entry, err := config.ParseEntry(kind, rule.String()) // of some kinds all are the client's
		if err == nil && rule.Client == (client || entry.Client) {
			out = append(out, rule.String())
		}
	}
	return out, err
}

// completeFlags offers the words that flags take.
func completeFlags(cmd *cobra.Command, words map[string][]string) {
	for flag, choices := range words {
		offer(cmd, flag, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp))
	}
}

// offer registers the completion of a flag.
func offer(cmd *cobra.Command, flag string, words completion) {
	_ = cmd.RegisterFlagCompletionFunc(flag, words) // only a flag that does not exist cannot have any
}
