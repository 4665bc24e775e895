package redact

import (
	_ "embed"
	"regexp"
	"syscall"
)

// ownWords are those of the texts in torbpf's source, a line each (go test ./internal/redact -update).
//
//go:embed words.txt
var ownWords string

// others are words that service managers, the runtime and the resolver write into logs.
const others = `started starting stopped stopping deactivated successfully consumed cpu time main process exited code
	status failed result exit signal scheduled restart restarting job counter memory peak swap transparent router kernel
	system service systemd reloading reloaded killing control group remaining requested dependency
	level debug info warn warning error msg err goroutine panic runtime dial read write tcp udp lookup timeout
	connection refused reset peer context deadline exceeded canceled such file directory invalid argument utc`

// telltale are words that could tell something: shorter ones are units and digits of hexadecimal numbers.
var telltale = regexp.MustCompile(`\p{L}{3,}|[^\P{L}a-zA-Z]+`)

// plainWords are those that free text may have.
var plainWords = readPlainWords()

func readPlainWords() map[string]bool {
	words := make(map[string]bool)
	text := ownWords + " " + others
	for n := range syscall.Errno(134) { // the last one of Linux is 133
		text += " " + n.Error()
	}
	for _, w := range telltale.FindAllString(text, -1) {
		words[lower(w)] = true
	}
	return words
}

// foreign tells whether a text has a word that nothing of torbpf's says.
func (r *Redactor) foreign(text string) bool {
	for _, w := range telltale.FindAllString(text, -1) {
		if !plainWords[lower(w)] && !r.kept[lower(w)] {
			return true
		}
	}
	return false
}

// hideForeign hides the words that nothing of torbpf's says.
func (r *Redactor) hideForeign(text string) string {
	return telltale.ReplaceAllStringFunc(text, func(w string) string {
		if !r.foreign(w) {
			return w
		}
		return r.hide("word", lower(w))
	})
}
