package config

import (
	"path/filepath"
	"strings"
	"unicode"
)

// MaxLists is how many lists of destinations there may be.
const MaxLists = 64

// parseList reads the path of a list of destinations; what is in the file is for
// internal/lists.
func parseList(s string) (string, error) { return parsePath(s, "a list") }

// parsePath reads an absolute path in its one spelling.
func parsePath(s, of string) (string, error) {
	switch clean := filepath.Clean(s); {
	case s == "" || strings.ContainsFunc(s, unicode.IsControl):
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: "not the path of " + of}
	case !filepath.IsAbs(s):
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: "relative to a directory that a service does not share: write the whole path of " + of}
	case clean != s:
		return "", &ParseError{Input: s, Kind: ErrSyntax, Suggestion: clean, message: "the path of " + of + " has one spelling"}
	}
	return s, nil
}
