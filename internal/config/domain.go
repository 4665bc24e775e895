package config

import (
	"fmt"
	"slices"
	"strings"
)

// What a name can have at most (RFC 1035, 2.3.4), as it is written.
const (
	longestName  = 253
	longestLabel = 63
)

// below begins a rule for the names below a domain, itself not among them.
const below = "*."

// notPublic are domains of which no exit is asked, and no other resolver either.
var notPublic = []string{"onion", "local", "lan", "internal", "localhost", "localdomain", "home", "home.arpa", "arpa"}

// ParseDomain reads a name, or *.name for all below it. Names with other letters than
// the English are written as DNS has them (xn--...).
func ParseDomain(s string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: fmt.Sprintf(format, args...)}
	}
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	bare, wild := strings.CutPrefix(name, below)
	labels := strings.Split(bare, ".")
	odd := strings.IndexFunc(bare, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	})
	long := slices.ContainsFunc(labels, func(label string) bool { return len(label) > longestLabel })
	switch {
	case odd >= 0 || long || len(bare) > longestName || slices.Contains(labels, ""):
		return refuse("not a name: write bank.example, or *.bank.example for all names below it; letters beyond a to z as DNS has them (xn--...)")
	case len(labels) < 2:
		return refuse("%s is a top-level domain, and all below it would be direct: name the site", bare)
	}
	for _, domain := range notPublic {
		if bare == domain || strings.HasSuffix(bare, "."+domain) {
			return refuse("names below %s are no part of the public DNS, so there is nobody to ask in clear", domain)
		}
	}
	if wild {
		return below + bare, nil
	}
	return bare, nil
}

// DomainMatches tells whether a name, in lower case and without a dot at its end, is
// what a rule's domain means.
func DomainMatches(domain, name string) bool {
	if bare, wild := strings.CutPrefix(domain, below); wild {
		return strings.HasSuffix(name, "."+bare)
	}
	return name == domain
}

func domainCovers(wide, narrow string) bool {
	if wide == narrow {
		return true
	}
	bare, wild := strings.CutPrefix(wide, below)
	return wild && strings.HasSuffix(strings.TrimPrefix(narrow, below), "."+bare)
}
