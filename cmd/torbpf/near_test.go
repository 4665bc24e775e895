package main

import (
	"strings"
	"testing"
)

// TestWhatIsNearIsSuggested: of flags as of commands, and nothing where nothing is near.
func TestWhatIsNearIsSuggested(t *testing.T) {
	for line, want := range map[string]string{
		"attach eth1 --nowait":      "unknown flag: --nowait: did you mean --no-wait?",
		"attach eth1 --brigde x":    "unknown flag: --brigde: did you mean --bridge?",
		"attach eth1 --onion 1":     "did you mean --onion4 or --onion6?",
		"attach eth1 --colour":      "unknown flag: --colour\n",
		"status --jsn":              "did you mean --json?",
		"exclude rm 192.0.2.0/24":   `unknown command "rm": did you mean del?`,
		"exclude remove 192.0.2.7":  `unknown command "remove": did you mean del?`,
		"exclude delete 192.0.2.77": `unknown command "delete": did you mean del?`,
	} {
		root := newRoot()
		root.SetArgs(strings.Fields(line))
		err := root.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || exitCode(err) != exitUsage {
			t.Errorf("torbpf %s: %v, want %q", line, err, want)
		}
	}
}
