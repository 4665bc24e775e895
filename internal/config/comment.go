package config

import (
	"fmt"
	"strings"
	"unicode"
)

// maxComment bounds what is said about a rule, in bytes: it is a line of the audit and of tables.
const maxComment = 200

// CheckComments refuses what a terminal or the audit would take for something else than words: other
// lines, and sequences that a terminal obeys.
func (rs Rules) CheckComments() error {
	for _, r := range rs {
		if problem := commentProblem(r.Comment); problem != "" {
			return Invalid("the comment %s", problem)
		}
	}
	return nil
}

func commentProblem(c string) string {
	switch {
	case len(c) > maxComment:
		return fmt.Sprintf("has %d bytes: write %d at most", len(c), maxComment)
	case printable(c) != c:
		return fmt.Sprintf("%q has what cannot be printed: write one line of plain text", c)
	}
	return ""
}

// printable has a mark for what is none.
func printable(c string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, c)
}
