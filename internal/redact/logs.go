package redact

import (
	"net/netip"
	"regexp"
	"strings"
)

// Logs outlive what is known: rules that are no more, devices that have other names. So what
// people have written is told by its place there, and by words that nothing of torbpf's says.

// Places of what people have written.
var (
	auditLine  = regexp.MustCompile(`^\S+ [a-z0-9-]+: (?:added|changed|removed|ended) `)
	opening    = regexp.MustCompile(`\((?:(?:block|tor|direct)\))?`) // a policy's parentheses are torbpf's own
	closing    = regexp.MustCompile(`\)(?:, by [^()]*)?$`)
	aside      = regexp.MustCompile(`(\()([^()"]+)(\))`)
	ruled      = regexp.MustCompile(`(\b(?:added|changed|removed|ended) (?:user|cgroup|program|list) )([^\s",(:]+)()`)
	eventText  = regexp.MustCompile(`("text":")((?:[^"\\]|\\.)*)(")`)
	eventOf    = regexp.MustCompile(`("kind":"(?:user|cgroup|program|list)","entry":")((?:[^"\\]|\\.)*)(")`)
	eventNamed = regexp.MustCompile(`("device":")((?:[^"\\]|\\.)*)(")`)
)

// Audit is Text for the log of rules, a line "TIME NAMESPACE: WHAT (COMMENT), by COMMAND" each. A
// line that is none is the rest of a comment.
func (r *Redactor) Audit(text string) string {
	var out strings.Builder
	for line := range strings.Lines(r.hideAll(plain(text))) {
		line, end := cutEnd(line)
		switch {
		case auditLine.MatchString(line):
			line = r.hideForeign(r.hideNoted(line))
		case line != "":
			line = r.hide("comment", line)
		}
		out.WriteString(line + end)
	}
	return r.show(out.String())
}

// Events is Text for the journal of events, a line of JSON each.
func (r *Redactor) Events(text string) string {
	text = r.hideAll(plain(text))
	text = eventText.ReplaceAllStringFunc(text, func(found string) string {
		m := eventText.FindStringSubmatch(found)
		return m[1] + r.hideNoted(m[2]) + m[3]
	})
	text = r.hideIn(eventOf, "entry", text, r.speaks)
	text = r.hideIn(eventNamed, "device", text, r.speaks)
	return r.show(r.hideForeign(text))
}

// Log is Text for lines that are written for people.
func (r *Redactor) Log(text string) string {
	text = r.hideIn(aside, "comment", r.hideAll(plain(text)), r.foreign)
	text = r.hideIn(ruled, "entry", text, r.speaks)
	return r.show(r.hideForeign(text))
}

// hideNoted hides the comment of a rule, and what of this machine the rule is about. A comment of
// several lines has no end in its first one.
func (r *Redactor) hideNoted(line string) string {
	for _, begin := range opening.FindAllStringIndex(line, -1) {
		if begin[1]-begin[0] > 1 {
			continue
		}
		what, comment := line[:begin[1]], line[begin[1]:]
		end := ""
		if at := closing.FindStringIndex(comment); at != nil {
			comment, end = comment[:at[0]], comment[at[0]:]
		}
		if r.speaks(comment) {
			comment = r.hide("comment", lower(comment))
		}
		line = what + comment + end
		break
	}
	return r.hideIn(ruled, "entry", line, r.speaks)
}

// hideIn hides the second of three groups of an expression wherever it tells something.
func (r *Redactor) hideIn(place *regexp.Regexp, kind, text string, tells func(string) bool) string {
	return place.ReplaceAllStringFunc(text, func(found string) string {
		m := place.FindStringSubmatch(found)
		if !tells(m[2]) {
			return found
		}
		return m[1] + r.hide(kind, lower(m[2])) + m[3]
	})
}

// speaks tells what is neither hidden already nor an address.
func (r *Redactor) speaks(text string) bool {
	for word := range strings.FieldsFuncSeq(text, func(c rune) bool { return c >= firstRune && c <= lastRune || strings.ContainsRune(" (),", c) }) {
		if _, err := netip.ParseAddr(word); err != nil {
			return true
		}
	}
	return false
}

// cutEnd takes the end of a line off.
func cutEnd(line string) (text, end string) {
	text, ended := strings.CutSuffix(line, "\n")
	if ended {
		end = "\n"
	}
	return text, end
}
