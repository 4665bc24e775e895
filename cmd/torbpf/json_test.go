package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandThatSaysSomethingTakesJSON, and is in the table of the docs.
func TestEveryCommandThatSaysSomethingTakesJSON(t *testing.T) {
	docs, err := os.ReadFile("../../docs/JSON.md")
	if err != nil {
		t.Fatal(err)
	}
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
		name := commandName(cmd)
		if strings.HasPrefix(name, "completion") || cmd.HasSubCommands() || cmd.Hidden || slices.Contains([]string{"run", "exec", "help"}, name) {
			return // run logs, and what exec prints is the program's
		}
		if cmd.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json", name)
		}
		if !strings.Contains(string(docs), "\n| `"+name+"` | ") {
			t.Errorf("the docs do not have the fields of %s", name)
		}
	}
	visit(newRoot())
}
