package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/torbpf/torbpf/internal/manual"
)

// TestTheManualHasEveryCommand that is not hidden, and says of every flag what follows it.
func TestTheManualHasEveryCommand(t *testing.T) {
	root := newRoot()
	page := manual.Commands(manual.Page{Version: "v1.2.3"}, root, statuses)
	plain := strings.NewReplacer(`\-`, "-", `""`, `"`).Replace(page)
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Runnable() && cmd.HasParent() && cmd.Name() != "help" && cmd.Parent().Name() != "completion" && !strings.Contains(plain, `.SS "`+cmd.CommandPath()) {
			t.Errorf("the manual has no %s", cmd.CommandPath())
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			title := `"--` + f.Name
			if f.Value.Type() != "bool" {
				title += " "
			}
			if !f.Hidden && f.Name != "help" && cmd.HasParent() && cmd.Parent().Name() != "completion" && !strings.Contains(plain, title) {
				t.Errorf("the manual has no %s of %s, or not what follows it (a %s)", f.Name, cmd.CommandPath(), f.Value.Type())
			}
		})
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				visit(sub)
			}
		}
	}
	visit(root)
	for _, s := range statuses {
		if !strings.Contains(page, fmt.Sprintf(".B \"%d\"\n", s.Code)) {
			t.Errorf("the manual has no exit code %d", s.Code)
		}
	}
}
