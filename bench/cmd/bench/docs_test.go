package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/bench/report"
)

var update = flag.Bool("update", false, "write the tables and the chart of the stored run into docs")

const (
	storedRun   = "../../../docs/bench.json"
	storedChart = "../../../docs/bench.svg"
	page        = "../../../docs/BENCH.md"
)

// TestTheDocsShowTheStoredRun: no figure there is anybody's but the run's that is beside them.
func TestTheDocsShowTheStoredRun(t *testing.T) {
	result, err := report.ReadFile(storedRun)
	if err != nil {
		t.Fatal(err)
	}
	var tables bytes.Buffer
	if err := result.Print(&tables); err != nil {
		t.Fatal(err)
	}
	drawn := filepath.Join(t.TempDir(), "chart.svg")
	if err := store(result, "", drawn); err != nil {
		t.Fatal(err)
	}
	chart, text := readText(t, drawn), readText(t, page)
	head, rest, ok := strings.Cut(text, "```text\n")
	old, tail, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatalf("%s has no block of text for the tables", page)
	}
	if *update {
		write(t, page, head+"```text\n"+tables.String()+"```\n"+tail)
		write(t, storedChart, chart)
		return
	}
	if old != tables.String() {
		t.Errorf("the tables of %s are not those of %s: go test ./bench/cmd/bench -update", page, storedRun)
	}
	if readText(t, storedChart) != chart {
		t.Errorf("the chart is not that of %s: go test ./bench/cmd/bench -update", storedRun)
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
