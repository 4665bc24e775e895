package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelpFitsATerminal of 80 columns, that of every command, but for examples, which are to be
// copied; no word is lost.
func TestHelpFitsATerminal(t *testing.T) {
	root := newRoot()
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		var out strings.Builder
		cmd.SetOut(&out)
		cmd.HelpFunc()(cmd, nil)
		for _, line := range strings.Split(out.String(), "\n") {
			if len([]rune(line)) > 80 && !strings.Contains(cmd.Example, line) {
				t.Errorf("%s --help has %d columns: %s", cmd.CommandPath(), len([]rune(line)), line)
			}
		}
		words := strings.Join(strings.Fields(out.String()), " ")
		for _, text := range []string{cmd.Long, cmd.Short, cmd.LocalFlags().FlagUsages()} {
			if text == cmd.Short && cmd.Long != "" {
				continue
			}
			if text = strings.Join(strings.Fields(text), " "); !strings.Contains(words, text) {
				t.Errorf("%s --help has lost some of: %s", cmd.CommandPath(), text)
			}
		}
		for _, sub := range cmd.Commands() {
			if !sub.Hidden && sub.Name() != "completion" {
				visit(sub)
			}
		}
	}
	visit(root)
}

// TestHelpGroupsCommandsAsTheREADMEDoes, attach first.
func TestHelpGroupsCommandsAsTheREADMEDoes(t *testing.T) {
	root := newRoot()
	var out strings.Builder
	root.SetOut(&out)
	root.HelpFunc()(root, nil)
	text, from := out.String(), 0
	for _, want := range []string{"\nOn Tor, and off:\n  attach ", "\n  detach ", "\nWhat goes directly:\n  exclude ", "\nWhat happens:\n  status ", "\nOthers:\n  run "} {
		i := strings.Index(text[from:], want)
		if i < 0 {
			t.Fatalf("torbpf --help lacks %q at its place:\n%s", want, text)
		}
		from += i
	}
	if strings.Contains(text, "Additional Commands") {
		t.Errorf("a command has no group:\n%s", text)
	}
}
