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
func parseList(s string) (string, error) {
	switch clean := filepath.Clean(s); {
	case s == "" || strings.ContainsFunc(s, unicode.IsControl):
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: "not the path of a list"}
	case !filepath.IsAbs(s):
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: "relative to a directory that a service does not share: write the whole path of the list"}
	case clean != s:
		return "", &ParseError{Input: s, Kind: ErrSyntax, Suggestion: clean, message: "the path of a list has one spelling"}
	}
	return s, nil
}
