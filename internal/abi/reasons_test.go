package abi

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/REASONS.md anew")

const reasonsPage = "../../docs/REASONS.md"

// TestReasonsPageIsCurrent holds docs/REASONS.md to the explanations that
// torbpf itself gives.
func TestReasonsPageIsCurrent(t *testing.T) {
	var page strings.Builder
	page.WriteString("# Verdicts and reasons\n\n" +
		"Why a packet got its verdict, under the names that `torbpf status` and the map\n" +
		"`counters` use. This page is written from `internal/abi/names.go` by\n" +
		"`go test ./internal/abi -update`.\n\n" +
		"| reason | verdict | what it means |\n|---|---|---|\n")
	for r := ReasonNone + 1; r < ReasonMax; r++ {
		fmt.Fprintf(&page, "| `%s` | %s | %s |\n", r, r.Verdict(), r.Explain())
	}
	if *update {
		if err := os.WriteFile(reasonsPage, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(reasonsPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != page.String() {
		t.Errorf("docs/REASONS.md is not what names.go says: run go test ./internal/abi -update")
	}
}
