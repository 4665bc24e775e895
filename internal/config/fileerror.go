package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// fileError says in which line of a file an error is.
func (s source) fileError(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var problems []error
		for _, e := range strict.Errors {
			row, _ := e.Position()
			problems = append(problems, Invalid("%s: unknown key %s: packaging/torbpf.toml lists those there are (installed below share/doc/torbpf)", s.at(row), strings.Join(e.Key(), ".")))
		}
		return errors.Join(problems...)
	}
	var decode *toml.DecodeError
	if !errors.As(err, &decode) {
		return Invalid("%s: %w", s.name, err)
	}
	row, _ := decode.Position()
	where := s.at(row)
	if key := strings.Join(decode.Key(), "."); key != "" {
		where += ", " + key
	}
	return Invalid("%s: %s", where, plain(strings.TrimPrefix(decode.Error(), "toml: ")))
}

// What the reader of TOML says in the words of Go, which nobody has to know.
var (
	wrongType = regexp.MustCompile(`^cannot decode TOML (.+) into struct field .* of type (.+)$`)
	wrongSize = regexp.MustCompile(`^integer value (.+) cannot be stored in (.+)$`)
	wrongTime = regexp.MustCompile(`^parsing time ("(?:[^"\\]|\\.)*") as `)
	wrongAddr = regexp.MustCompile(`^ParseAddr\((".*")\): `)
)

// plain says the same in the words of the file.
func plain(text string) string {
	if m := wrongType.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("%s stands where %s belongs", withArticle(m[1]), wanted(m[2]))
	}
	if m := wrongSize.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("%s is too large or too small: write %s", m[1], wanted(m[2]))
	}
	if m := wrongTime.FindStringSubmatch(text); m != nil {
		return m[1] + " is no time: write one such as 2030-01-31T18:00:00+01:00"
	}
	if m := wrongAddr.FindStringSubmatch(text); m != nil {
		return m[1] + " is no address: write one such as 192.0.2.53"
	}
	return text
}

// wanted says what is written for a Go type.
func wanted(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return `a list such as ["..."]`
	case goType == "bool":
		return "true or false"
	case goType == "uint8":
		return "a number from 0 to 255"
	case goType == "uint16":
		return "a number from 0 to 65535"
	case goType == "string", strings.Contains(goType, "Text"), strings.HasSuffix(goType, "config.MAC"):
		return `a text such as "..."`
	case strings.HasSuffix(goType, "time.Time"):
		return "a time such as 2030-01-31T18:00:00+01:00"
	}
	return "a table of keys"
}

func withArticle(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}
