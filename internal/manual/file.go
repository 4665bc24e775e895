package manual

import (
	"regexp"
	"strings"
)

// File writes the page of the configuration from its reference, packaging/torbpf.toml: blocks
// of lines with an empty one between, in each of which comments say what the keys, or the
// table, below them are about.
func File(p Page, reference string) string {
	blocks := strings.Split(strings.TrimSpace(reference), "\n\n")
	name, what, _ := strings.Cut(strings.TrimPrefix(blocks[0], "# /etc/torbpf/"), ": ")
	what, more, _ := strings.Cut(what, "\n#\n")
	r := &roff{}
	r.title(p, name, 5, strings.TrimSuffix(what, "."))
	r.section("SYNOPSIS")
	r.text("`/etc/torbpf/torbpf.toml`, `/etc/torbpf/torbpf.d/*.toml`")
	r.section("DESCRIPTION")
	r.prose(uncommented(more))
	r.prose("Files in torbpf.d are read after it, by name: their lists add up, of single values the last counts. `torbpf check-config` judges all of it, `torbpf plan` shows what it would do here, `torbpf apply` puts it in force.")
	r.section("KEYS")
	for _, b := range blocks[1:] {
		r.block(strings.Split(b, "\n"))
	}
	r.section("SEE ALSO")
	r.text("`torbpf`(8)")
	return r.String()
}

var (
	tableLine = regexp.MustCompile(`^\[[a-z.]+\]$`)
	// keyLine is a key, or an example of one that has no default.
	keyLine = regexp.MustCompile(`^(?:# )?([a-z0-9_-]+ = .*)$`)
	// exampleLine begins a whole example.
	exampleLine = regexp.MustCompile(`^# \[\[[a-z]+\]\]$`)
)

// block writes a block of the reference: a comment before a table is about that, one before
// keys about those, and one with nothing below is a paragraph.
func (r *roff) block(lines []string) {
	var text, keys []string
	for i, l := range lines {
		switch {
		case tableLine.MatchString(l):
			r.subsection(l)
			r.paragraph(text)
			text = nil
		case exampleLine.MatchString(l):
			r.subsection(uncommented(l))
			r.paragraph(text)
			r.verbatim(strings.Split(uncommented(strings.Join(lines[i:], "\n")), "\n")...)
			return
		case keyLine.MatchString(l):
			keys = append(keys, keyLine.FindStringSubmatch(l)[1])
		default:
			text = append(text, l)
		}
	}
	if len(keys) > 0 {
		r.item(uncommented(strings.Join(text, "\n")), keys...)
		return
	}
	r.paragraph(text)
}

func (r *roff) paragraph(comment []string) {
	if text := strings.TrimSpace(uncommented(strings.Join(comment, "\n"))); text != "" {
		r.prose(text)
	}
}

// comment is how a line of one begins.
var comment = regexp.MustCompile(`(?m)^# ?`)

func uncommented(text string) string { return comment.ReplaceAllString(text, "") }
