package doctor

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/DOCTOR.md anew")

const page = "../../docs/DOCTOR.md"

// The table stands between these lines.
const (
	tableBegins = "<!-- written by go test ./internal/doctor -update -->\n"
	tableEnds   = "<!-- end -->\n"
)

// TestDoctorPageIsCurrent holds the table of docs/DOCTOR.md to the checks.
func TestDoctorPageIsCurrent(t *testing.T) {
	var table strings.Builder
	table.WriteString("| check | group | what it finds | what to do |\n|---|---|---|---|\n")
	seen := make(map[string]bool)
	for _, c := range checks {
		if seen[c.id] {
			t.Errorf("%s is there twice", c.id)
		}
		seen[c.id] = true
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", c.id, c.group, c.means, c.todo)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(text), tableBegins)
	have, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		t.Fatal("docs/DOCTOR.md has no place for the table")
	}
	if *update {
		page := before + tableBegins + table.String() + tableEnds + after
		if err := os.WriteFile("../../docs/DOCTOR.md", []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != table.String() {
		t.Error("docs/DOCTOR.md is not what the checks say: run go test ./internal/doctor -update")
	}
}
