// Package redact takes out of texts what tells who somebody is and where: public addresses,
// hardware addresses, names of hosts, devices and people, bridges, onion services, keys. The same
// secret gets the same placeholder in all texts of one Redactor, so that they can still be read
// together.
//
//	known words ─┐
//	             ├▶ one rune each ─▶ patterns ─▶ names with dots ─▶ placeholders
//	phrases ─────┘
//
// What was found is a single rune of a private range until the end, so that no later pass sees
// anything of it, or of a placeholder.
//
// What looks like a secret is taken for one: a word too many is lost rather than one left.
package redact

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Known are secrets that no pattern tells from other words.
type Known struct {
	Devices  []string // what people call their devices
	Hosts    []string // names of this host and of others, with domains or without
	Users    []string // accounts of people
	Domains  []string // names in rules
	Comments []string // what people have written down, of several words perhaps
	Bridges  []string // words of bridge lines
	Lists    []string // paths of lists
	Apps     []string // control groups and programs in rules
	Spaces   []string // names of network namespaces
	Plain    []string // no secrets: names of interfaces, which logs may have
}

// Redactor has placeholders for what it has seen.
type Redactor struct {
	known  []word
	found  map[string]rune // by kind and secret
	shown  []string        // placeholders, by their runes
	counts map[string]int
	kept   map[string]bool // words of what is no secret
}

// word is a secret, in lower case.
type word struct{ kind, text string }

// The first and the last rune that stand for placeholders (private use, plane 15).
const (
	firstRune = 0xF0000
	lastRune  = 0xFFFFD
)

// New returns a Redactor that knows these.
func New(k Known) *Redactor {
	r := &Redactor{found: make(map[string]rune), counts: make(map[string]int), kept: make(map[string]bool)}
	for _, text := range k.Plain {
		for _, w := range telltale.FindAllString(text, -1) {
			r.kept[lower(w)] = true
		}
	}
	for _, list := range []struct {
		kind  string
		words []string
	}{{"device", k.Devices}, {"host", k.Hosts}, {"user", k.Users}, {"name", k.Domains}, {"comment", k.Comments}, {"bridge", k.Bridges}, {"list", k.Lists}, {"app", k.Apps}, {"netns", k.Spaces}} {
		for _, text := range list.words {
			if strings.TrimSpace(text) == "" || list.kind == "netns" && !r.foreign(text) {
				continue // one that is called router tells nothing, and its place hides it as well
			}
			r.known = append(r.known, word{list.kind, lower(text)})
			if escaped, err := json.Marshal(text); err == nil && len(escaped) != len(text)+2 {
				r.known = append(r.known, word{list.kind, lower(string(escaped[1 : len(escaped)-1]))})
			}
		}
	}
	// The longer ones first, which may have others in them.
	slices.SortStableFunc(r.known, func(a, b word) int { return len(b.text) - len(a.text) })
	return r
}

// Text returns a text without secrets.
func (r *Redactor) Text(text string) string { return r.text(plain(text)) }

// plain leaves out what would be taken for a placeholder.
func plain(text string) string {
	return strings.Map(func(c rune) rune {
		if c >= firstRune && c <= lastRune {
			return -1
		}
		return c
	}, text)
}

// text is Text for one that may have placeholders already.
func (r *Redactor) text(text string) string { return r.show(r.hideAll(text)) }

// hideAll puts a rune in place of each secret.
func (r *Redactor) hideAll(text string) string {
	text = inUTC(text)
	for _, w := range r.known {
		text = r.replaceWord(text, w)
	}
	for _, p := range patterns {
		text = p.find.ReplaceAllStringFunc(text, func(found string) string { return p.replace(r, found) })
	}
	return text
}

// hide returns what stands for a secret until show.
func (r *Redactor) hide(kind, secret string) string {
	key := kind + " " + secret
	c, known := r.found[key]
	if !known {
		r.counts[kind]++
		c = firstRune + rune(len(r.shown))
		if c > lastRune {
			c = lastRune // as if all the rest were one
		} else {
			r.shown = append(r.shown, fmt.Sprintf("%s-%d", kind, r.counts[kind]))
		}
		r.found[key] = c
	}
	return string(c)
}

// show puts placeholders where the runes are.
func (r *Redactor) show(text string) string {
	var out strings.Builder
	for _, c := range text {
		if c < firstRune || c > lastRune {
			out.WriteRune(c)
			continue
		}
		out.WriteString(r.shown[min(int(c-firstRune), len(r.shown)-1)])
	}
	return out.String()
}

// replaceWord hides a known word wherever it stands by itself: what it is within is another word.
func (r *Redactor) replaceWord(text string, w word) string {
	in := lower(text)
	if !strings.Contains(in, w.text) {
		return text
	}
	var out strings.Builder
	done := 0
	for at := 0; ; {
		i := strings.Index(in[at:], w.text)
		if i < 0 {
			break
		}
		i += at
		end := i + len(w.text)
		if !joins(in, i-1, i) && !joins(in, end-1, end) {
			out.WriteString(text[done:i])
			out.WriteString(r.hide(w.kind, w.text))
			done, at = end, end
			continue
		}
		at = i + 1
	}
	out.WriteString(text[done:])
	return out.String()
}

// joins tells whether two neighbouring bytes are of one word.
func joins(text string, a, b int) bool {
	return a >= 0 && b < len(text) && isWord(text[a]) && isWord(text[b])
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 0x80
}

// lower is strings.ToLower for ASCII: of the same length.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// placeholder is what show writes: a device may be called "device".
var placeholder = regexp.MustCompile(`(?:app|bridge|comment|device|entry|hex|host|ip4|ip6|key|list|mac|name|netns|onion|relay|user|word)-[0-9]+`)

// Leaves names the kinds of known secrets that are still in a text, which no text that went
// through here has.
func (r *Redactor) Leaves(text string) []string {
	var kinds []string
	text = placeholder.ReplaceAllString(text, "")
	probe := &Redactor{found: make(map[string]rune), counts: make(map[string]int)}
	for _, w := range r.known {
		if hidden := probe.replaceWord(text, w); hidden != text && !slices.Contains(kinds, w.kind) {
			kinds = append(kinds, w.kind)
		}
	}
	return kinds
}
