package redact

import (
	"slices"
	"strings"
	"unicode"
)

// Words with dots that are no names of hosts: files, by ends that are no domain's; settings of the
// kernel, by how they begin.
var (
	endsOfFiles    = []string{"conf", "go", "gz", "json", "jsonl", "lock", "log", "scope", "service", "slice", "sock", "socket", "timer", "toml", "torrc", "txt"}
	kernelSettings = []string{"net.ipv4.", "net.ipv6.", "net.bridge.", "net.netfilter.", "net.core.", "kernel."}
)

// hideName hides a name with dots, and who is before an @.
func hideName(r *Redactor, found string) string {
	name := strings.Trim(lower(found), ".-_")
	person, host, mail := strings.Cut(name, "@")
	if !mail {
		host = person
	}
	labels := strings.Split(host, ".")
	last := labels[len(labels)-1]
	switch {
	case mail:
	case len(labels) < 2 || slices.ContainsFunc(labels, func(l string) bool { return !isLabel(l) }):
		return found
	case last[0] >= '0' && last[0] <= '9':
		return found // a version, or an interface of a VLAN
	case len(last) < 2 || slices.Contains(endsOfFiles, last):
		return found
	case slices.ContainsFunc(kernelSettings, func(p string) bool { return strings.HasPrefix(host, p) }):
		return found
	}
	at := strings.Index(lower(found), name)
	return found[:at] + r.hide("name", name) + found[at+len(name):]
}

// isLabel tells a part of a host's name.
func isLabel(l string) bool {
	return l != "" && !strings.ContainsFunc(l, func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '-' && c != '_'
	})
}
