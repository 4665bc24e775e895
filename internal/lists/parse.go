package lists

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// usualLine is how many bytes a line has at least in most lists. It only
// guesses how much room the entries need.
const usualLine = 14

// shownBytes is how much of a broken entry an error shows. No spelling of a
// prefix is that long.
const shownBytes = 64

// Prefixes shorter than these are taken for ones that were cut short if
// nothing, not even a line ending, follows: what makes a prefix wider when its
// last digits are lost gives at most /3 of IPv4 (from /32) and /12 of IPv6
// (from /128).
const (
	cutBits4 = 8
	cutBits6 = 16
)

var (
	byteOrderMark = []byte("\xef\xbb\xbf")
	slash         = []byte("/")
)

// fill reads the text of the list. size is a hint.
func (l *List) fill(text io.Reader, size int64) error {
	room := max(0, min(size/usualLine, MaxEntries))
	prefixes, err := entries(text, make([]netip.Prefix, 0, room))
	if err != nil {
		return fmt.Errorf("%s: %w", l.Path, err)
	}
	if len(prefixes) == 0 {
		return invalid("%s: holds no prefix at all: get the list anew, or take it out of the configuration", l.Path)
	}
	l.Entries = len(prefixes)
	l.Prefixes = minimal(prefixes)
	if family := wholeFamily(l.Prefixes); family != "" {
		return invalid("%s: its prefixes cover all of %s together and would let everything past Tor: take the widest out",
			l.Path, family)
	}
	if cap(l.Prefixes)/2 > len(l.Prefixes) {
		l.Prefixes = slices.Clone(l.Prefixes) // lets go of the room
	}
	l.Digest = digest(l.Prefixes)
	return nil
}

// entries appends the prefix of each line that has one, as it stands there.
func entries(text io.Reader, out []netip.Prefix) ([]netip.Prefix, error) {
	err := each(text, func(_ int, p netip.Prefix) error {
		if len(out) == MaxEntries {
			return invalid("is one entry more than the %d that a list may have: use a list with fewer, wider prefixes", MaxEntries)
		}
		out = append(out, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// each calls take with the prefix of each line that has one, and the number of the line.
func each(text io.Reader, take func(line int, p netip.Prefix) error) error {
	lines := bufio.NewReaderSize(text, 16*MaxLine)
	read := 0
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		ended := err == nil
		if !ended && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("read line %d: %w", n, err)
		}
		if n == 1 {
			line = bytes.TrimPrefix(line, byteOrderMark)
		}
		if read += len(line); read > MaxBytes {
			return tooLarge()
		}
		p, found, lineErr := entry(line, ended)
		if lineErr == nil && found {
			lineErr = take(n, p)
		}
		if lineErr != nil {
			return fmt.Errorf("line %d: %w", n, lineErr)
		}
		if !ended {
			return nil
		}
	}
}

func tooLarge() error {
	return invalid("is larger than the %d MiB that a list may have: leave out its comments, or use a shorter one", MaxBytes>>20)
}

// entry reads one line, with its ending or, at the end of the file, without.
// found is false for one that holds no prefix.
func entry(line []byte, ended bool) (p netip.Prefix, found bool, err error) {
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	if len(line) > MaxLine {
		return p, false, invalid("is longer than %d bytes, so this is no list of prefixes: get it anew", MaxLine)
	}
	if comment := bytes.IndexAny(line, "#;"); comment >= 0 {
		line = line[:comment]
	}
	line = bytes.Trim(line, " \t")
	if len(line) == 0 {
		return p, false, nil
	}
	p, ok := quick(line)
	if !ok {
		if p, err = config.ParsePrefix(shown(line)); err != nil {
			return p, false, err
		}
	}
	switch {
	case p.Bits() == 0:
		return p, false, invalid("%s would let everything past Tor: take the line out; torbpf detach switches Tor off", p)
	case !ended && p.Bits() < shortest(p.Addr()):
		return p, false, invalid("%s may have been cut short, as nothing follows it: get the list anew, or end the line", p)
	}
	return p, true, nil
}

func shortest(a netip.Addr) int {
	if a.Is4() {
		return cutBits4
	}
	return cutBits6
}

// shown cuts what is too long for a prefix, and leaves it broken.
func shown(text []byte) string {
	if len(text) > shownBytes {
		return string(text[:shownBytes]) + "…"
	}
	return string(text)
}
