package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// listRules prints a rule a line: what it matches, its policy, what is in it or who is asked
// for it, how long it holds, why. What no rule has takes no column.
func listRules(w io.Writer, rules config.Rules, lists []router.ListStatus, resolver netip.Addr) error {
	if len(rules) == 0 {
		_, err := fmt.Fprintln(w, "nothing is excluded")
		return err
	}
	var rows [][]string
	for _, r := range rules {
		rows = append(rows, ruleFields(r, lists, resolver, time.Now()))
	}
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		var shown []string
		for i, field := range row {
			if slices.ContainsFunc(rows, func(other []string) bool { return other[i] != "" }) {
				shown = append(shown, field)
			}
		}
		fmt.Fprintln(t, strings.Join(shown, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// ruleFields are the columns of one rule, "" for what it has not.
func ruleFields(r config.Rule, lists []router.ListStatus, resolver netip.Addr, now time.Time) []string {
	var client, within, until, then string
	if r.Client {
		client = "for this machine"
	}
	switch r.Kind {
	case config.KindList:
		within = listWords(lists, r.List)
	case config.KindDomain:
		within = fmt.Sprintf("asked of %s, in clear", resolver)
	}
	if !r.Until.IsZero() {
		until = fmt.Sprintf("until %s (%s)", r.Until.Local().Format(time.DateTime), shortTime(leftOf(r.Until.Sub(now))))
	}
	if r.Beneath != nil {
		then = fmt.Sprintf("then %s", r.Beneath.Policy)
	}
	return []string{string(r.Kind), r.String(), string(r.Policy), client, within, until, then, r.Comment}
}

// leftOf rounds what is left of a life: of days nobody wants the seconds.
func leftOf(d time.Duration) time.Duration {
	if d >= 24*time.Hour {
		return d.Round(time.Hour)
	}
	return d.Round(time.Second)
}

// listWords says what is in force of a list.
func listWords(lists []router.ListStatus, path string) string {
	for _, l := range lists {
		if l.Path == path && l.Read != nil {
			return fmt.Sprintf("%s, read %s", counted(l.Entries, "entry", "entries"), l.Read.Local().Format(time.DateTime))
		}
	}
	return "not in force: what is in it is Tor's"
}

// counted is a number of things in words.
func counted(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
