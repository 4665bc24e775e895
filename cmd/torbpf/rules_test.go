package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// TestRulesStandInColumns: what is of one kind stands below its like, whatever a rule lacks.
func TestRulesStandInColumns(t *testing.T) {
	now := time.Now()
	rules := config.DirectPrefixes(config.KindDestination)
	for _, text := range []string{"9.9.9.9", "104.16.0.0/13"} {
		entry, err := config.ParseEntry(config.KindDestination, text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, config.Direct(entry))
	}
	rules[0].Comment, rules[1].Comment, rules[1].Until = "a", "b", now.Add(49*time.Hour)
	list, err := config.ParseEntry(config.KindList, "/x")
	if err != nil {
		t.Fatal(err)
	}
	rules = append(rules, config.Direct(list))
	var out strings.Builder
	if err := listRules(&out, rules, []router.ListStatus{{Path: "/x", Entries: 1, Read: &now}}, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if a, b := strings.LastIndex(lines[0], "a"), strings.LastIndex(lines[1], "b"); a != b {
		t.Errorf("comments stand in columns %d and %d:\n%s", a, b, &out)
	}
	if !strings.Contains(lines[1], "(2d1h)") || !strings.Contains(lines[2], "1 entry, read ") {
		t.Errorf("listed as\n%s", &out)
	}
	if strings.Contains(out.String(), " \n") {
		t.Errorf("a line ends in space:\n%q", out.String())
	}
}

// TestATimeHasItsDay where that is another than today.
func TestATimeHasItsDay(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local)
	for until, want := range map[time.Time]string{
		now.Add(time.Hour): "13:00:00", now.Add(20 * time.Hour): "2026-01-03 08:00:00", now.Add(48 * time.Hour): "2026-01-04 12:00:00",
	} {
		if got := untilWords(until, now); got != want {
			t.Errorf("%v is %s, want %s", until, got, want)
		}
	}
}
