package tor

import (
	"fmt"
	"strings"
)

// word is one element of a control reply: KEY=value, KEY="quoted value", a
// bare value or a bare quoted value.
type word struct{ key, value string }

// words splits a control reply (control-spec, "Bootstrap phases" and
// "GETINFO net/listeners"). Quoted values carry C escapes.
func words(s string) ([]word, error) {
	var out []word
	for i := 0; i < len(s); {
		if s[i] == ' ' {
			i++
			continue
		}
		var w word
		if end := i + strings.IndexAny(s[i:], `= "`); end >= i && s[end] == '=' {
			w.key, i = s[i:end], end+1
		}
		if i < len(s) && s[i] == '"' {
			value, n, err := unquote(s[i:])
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", s, err)
			}
			w.value, i = value, i+n
			if i < len(s) && s[i] != ' ' {
				return nil, fmt.Errorf("read %q: text right behind a quote", s)
			}
		} else {
			end := strings.IndexByte(s[i:], ' ')
			if end < 0 {
				end = len(s) - i
			}
			w.value, i = s[i:i+end], i+end
		}
		out = append(out, w)
	}
	return out, nil
}

// unquote reads a quoted string from the start of s and returns its content
// and how many bytes of s it takes.
func unquote(s string) (value string, n int, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), i + 1, nil
		case '\\':
			c, used := unescape(s[i+1:])
			if used == 0 {
				return "", 0, fmt.Errorf("an escape without a character")
			}
			b.WriteByte(c)
			i += used
		default:
			b.WriteByte(s[i])
		}
	}
	return "", 0, fmt.Errorf("a quote that is not closed")
}

// unescape reads what follows a backslash and returns how many bytes it took:
// \n, \r, \t, up to three octal digits, or a character that stands for itself.
func unescape(s string) (c byte, used int) {
	if s == "" {
		return 0, 0
	}
	switch s[0] {
	case 'n':
		return '\n', 1
	case 'r':
		return '\r', 1
	case 't':
		return '\t', 1
	}
	value := 0
	for used < 3 && used < len(s) && s[used] >= '0' && s[used] <= '7' && value*8+int(s[used]-'0') < 256 {
		value = value*8 + int(s[used]-'0')
		used++
	}
	if used == 0 {
		return s[0], 1
	}
	return byte(value), used
}
