package redact

import (
	"regexp"
	"strings"
)

// written is what people write into rules of nftables.
var written = regexp.MustCompile(`((?:comment|prefix) )"(?:[^"\\]|\\.)*"`)

// Ruleset is Text for what `nft list ruleset` prints: comments and prefixes of log lines are
// secrets, but for those of our own table, as nft begins it.
func (r *Redactor) Ruleset(text, ours string) string {
	var out strings.Builder
	own := false
	for line := range strings.Lines(plain(text)) {
		if strings.HasPrefix(line, "table ") {
			own = strings.HasPrefix(line, ours+" ")
		}
		if !own {
			line = written.ReplaceAllStringFunc(line, func(found string) string {
				before := written.FindStringSubmatch(found)[1]
				return before + `"` + r.hide("comment", found[len(before):]) + `"`
			})
		}
		out.WriteString(line)
	}
	return r.text(out.String())
}
