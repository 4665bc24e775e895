package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestACommentIsALineOfWords: of a command, of the API and of a file; what was kept before is shown so.
func TestACommentIsALineOfWords(t *testing.T) {
	for comment, good := range map[string]bool{
		"": true, "the bank": true, "Größe: 木": true, strings.Repeat("x", maxComment): true,
		strings.Repeat("x", maxComment+1): false, "two\nlines": false, "\x1b[2Jgone": false, "a\ttab": false, "\u202eturned": false, "bad\xff": false,
	} {
		entry, err := ParseEntry(KindDevice, "02:00:5e:10:00:01")
		if err != nil {
			t.Fatal(err)
		}
		rule := Direct(entry)
		rule.Comment = comment
		if err := (Rules{rule}).CheckComments(); (err == nil) != good || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", comment, err)
		}
		quoted, err := json.Marshal(comment)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse([]byte(fmt.Sprintf("interfaces = [\"eth1\"]\n[[rules]]\ndestination = \"198.51.100.7\"\ncomment = %s\n", quoted))); (err == nil) != good && utf8.ValidString(comment) {
			t.Errorf("in a file, %q: %v", comment, err)
		}
		text, err := json.Marshal(rule)
		if err != nil {
			t.Fatal(err)
		}
		var again Rule
		if err := json.Unmarshal(text, &again); err != nil || printable(again.Comment) != again.Comment {
			t.Errorf("%q is read as %q, %v", comment, again.Comment, err)
		}
	}
}
