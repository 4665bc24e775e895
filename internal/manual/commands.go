package manual

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Status is an exit code and what it means.
type Status struct {
	Code    int
	Meaning string
}

// Commands writes the page of a program: its commands, their flags, and its exit codes.
func Commands(p Page, root *cobra.Command, statuses []Status) string {
	r := &roff{}
	r.title(p, root.Name(), 8, lowerFirst(root.Short))
	r.section("SYNOPSIS")
	r.text("`" + root.Name() + "` COMMAND [ARGUMENT...] [--FLAG...]")
	r.section("DESCRIPTION")
	r.prose(root.Long)
	r.section("COMMANDS")
	for _, cmd := range visible(root) {
		r.command(cmd)
	}
	r.section("EXIT STATUS")
	for _, s := range statuses {
		r.item(s.Meaning, fmt.Sprint(s.Code))
	}
	r.section("FILES")
	for _, f := range files {
		r.item(f.what, f.path)
	}
	r.section("SEE ALSO")
	r.text("`torbpf.toml`(5), `tor`(1), `nft`(8), `ip-rule`(8), `bpftool`(8)")
	return r.String()
}

// files are those that a user may want to look at.
var files = []struct{ path, what string }{
	{"/etc/torbpf/torbpf.toml", "The configuration; see `torbpf.toml`(5)."},
	{"/etc/torbpf/torbpf.d/*.toml", "What is read after it, by name. zz-saved.toml there is written by commands with --save."},
	{"/run/torbpf/bpf", "The pinned BPF maps and programs, which `bpftool` can read; they are gone after a reboot."},
	{"/var/lib/torbpf", "What outlives a reboot: Tor's guards, which interfaces the last configuration named, and host/audit.log, in which rules that begin and end are written down."},
}

// visible are all commands that do something, in the order of their names.
func visible(cmd *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	byName := slices.SortedFunc(slices.Values(cmd.Commands()), func(a, b *cobra.Command) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, sub := range byName {
		switch {
		case sub.Hidden || sub.Name() == "help":
		case sub.HasSubCommands() && sub.Name() != "completion":
			out = append(out, visible(sub)...)
		default:
			out = append(out, sub)
		}
	}
	return out
}

func (r *roff) command(cmd *cobra.Command) {
	line := cmd.UseLine()
	if cmd.Name() == "completion" {
		line = cmd.CommandPath() + " bash|zsh|fish"
	}
	r.subsection(strings.TrimSuffix(line, " [flags]"))
	text := cmd.Long
	if text == "" || cmd.Name() == "completion" {
		text = cmd.Short + "."
	}
	r.prose(text)
	if cmd.Example != "" {
		r.verbatim(outdented(cmd.Example)...)
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			r.item(f.Usage, flagTitle(f))
		}
	})
}

// valueNames say by the type of a flag what follows it.
var valueNames = map[string]string{
	"string": "VALUE", "strings": "VALUE,...", "stringSlice": "VALUE,...", "stringArray": "VALUE",
	"uint8": "NUMBER", "uint16": "NUMBER", "int": "NUMBER", "duration": "TIME", "time": "TIME",
}

// flagTitle is a flag as it is typed, and its default where it has one.
func flagTitle(f *pflag.Flag) string {
	title := "--" + f.Name
	if f.Shorthand != "" {
		title = "-" + f.Shorthand + ", " + title
	}
	if value := valueNames[f.Value.Type()]; value != "" {
		title += " " + value
	}
	if !slices.Contains([]string{"", "false", "0", "[]"}, f.DefValue) {
		title += " (" + f.DefValue + ")"
	}
	return title
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
