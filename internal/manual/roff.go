// Package manual writes torbpf's man pages, each from what already says it: torbpf(8) from the
// commands and their flags, torbpf.toml(5) from the reference of the configuration.
package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// Page is what both pages have beside their source.
type Page struct {
	Version string
	Date    string // of the version, as 2006-01-02; "" leaves it out
}

// roff is a man page under way, in the man(7) macros, which mandoc and groff both read.
type roff struct{ strings.Builder }

// title begins the page.
func (r *roff) title(p Page, name string, section int, what string) {
	fmt.Fprintf(r, ".TH %s %d %q %q\n", strings.ToUpper(name), section, p.Date, "torbpf "+p.Version)
	r.section("NAME")
	r.text(name + " - " + what)
}

// section begins one; subsection a part of it, whose title is as the user types it.
func (r *roff) section(name string) { fmt.Fprintf(r, ".SH %s\n", name) }

func (r *roff) subsection(name string) { fmt.Fprintf(r, ".SS %s\n", quoted(name)) }

// item is a paragraph, if there is any, below some titles in bold.
func (r *roff) item(text string, titles ...string) {
	for i, t := range titles {
		macro := ".TP"
		if i > 0 {
			macro = ".TQ"
		}
		fmt.Fprintf(r, "%s\n.B %s\n", macro, quoted(t))
	}
	if text != "" {
		r.text(text)
	}
}

// begin begins a paragraph; a title has done so already, and mandoc says so.
func (r *roff) begin() {
	text := strings.TrimSuffix(r.String(), "\n")
	if last := text[strings.LastIndexByte(text, '\n')+1:]; !strings.HasPrefix(last, ".SH ") && !strings.HasPrefix(last, ".SS ") {
		r.WriteString(".PP\n")
	}
}

// verbatim shows lines as they are.
func (r *roff) verbatim(lines ...string) {
	r.begin()
	r.WriteString(".RS 4\n.EX\n")
	for _, l := range lines {
		fmt.Fprintln(r, escape(l))
	}
	r.WriteString(".EE\n.RE\n")
}

// prose is text in paragraphs, of which those that are indented are shown as they are.
func (r *roff) prose(text string) {
	for _, paragraph := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if strings.HasPrefix(paragraph, "  ") {
			r.verbatim(outdented(paragraph)...)
			continue
		}
		r.begin()
		r.text(paragraph)
	}
}

// outdented are the lines of a paragraph without the indentation of its first.
func outdented(paragraph string) []string {
	lines := strings.Split(paragraph, "\n")
	indent := lines[0][:len(lines[0])-len(strings.TrimLeft(lines[0], " "))]
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, indent)
	}
	return lines
}

// code is what stands between backquotes: what a user types or reads.
var code = regexp.MustCompile("`([^`]*)`")

// text is one paragraph, filled; what is in backquotes is bold.
func (r *roff) text(text string) {
	line := strings.Join(strings.Fields(text), " ")
	fmt.Fprintln(r, code.ReplaceAllString(escape(line), `\fB$1\fR`))
}

// special are the characters that roff would take for its own, or print as another: a hyphen
// could not be pasted into a shell.
var special = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `^`, `\(ha`, `~`, `\(ti`)

func escape(line string) string {
	line = special.Replace(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// quoted is one argument of a macro.
func quoted(arg string) string {
	return `"` + strings.ReplaceAll(escape(arg), `"`, `""`) + `"`
}
