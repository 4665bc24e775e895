package config

import "strings"

// wildcard ends the name of an interface that stands for many.
const wildcard = "*"

// IsPattern says whether a name of Config.Interfaces stands for all interfaces
// that begin like it: "wlan*".
func IsPattern(name string) bool { return strings.HasSuffix(name, wildcard) }

// PatternPrefix returns what the interfaces of a pattern begin with.
func PatternPrefix(pattern string) string { return strings.TrimSuffix(pattern, wildcard) }

// MatchesPattern says whether a pattern stands for an interface.
func MatchesPattern(pattern, name string) bool {
	return strings.HasPrefix(name, PatternPrefix(pattern))
}
