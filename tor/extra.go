package tor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// extraMax bounds the user's file: tor is given all of it in one message.
const extraMax = 256 << 10

// extraFile is the user's own torrc.
type extraFile struct {
	path  string
	lines []extraLine
}

// extraLine is one option of it, with the lines it is continued on.
type extraLine struct {
	number     int    // of its first line, from 1
	text       string // as written, without the last newline
	key, value string // key in lower case, without the sign before it; "" for a comment
}

// readExtra reads the user's file; a nil result means there is none.
func readExtra(path string) (*extraFile, error) {
	if path == "" {
		return nil, nil
	}
	// Opening a fifo would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read the torrc lines to add: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("read the torrc lines to add: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read the torrc lines to add: %s is not a file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, extraMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the torrc lines to add: %w", err)
	}
	if len(data) > extraMax {
		return nil, fmt.Errorf("read the torrc lines to add: %s is larger than %d KiB", path, extraMax>>10)
	}
	return parseExtra(path, data)
}

// parseExtra splits a torrc into its options and refuses what would undo the
// lines that follow or that torbpf relies on.
func parseExtra(path string, data []byte) (*extraFile, error) {
	// tor stops reading at a zero byte: all our lines would be lost.
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, fmt.Errorf("%s:%d: a zero byte; a torrc is text", path, 1+bytes.Count(data[:i], []byte("\n")))
	}
	text := strings.TrimSuffix(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	raw := strings.Split(text, "\n")
	x := &extraFile{path: path}
	for i := 0; i < len(raw); i++ {
		l := extraLine{number: i + 1, text: raw[i]}
		trimmed := strings.TrimSpace(raw[i])
		if trimmed != "" && trimmed[0] != '#' {
			for last := raw[i]; continues(last); last = raw[i] {
				if i++; i == len(raw) {
					return nil, fmt.Errorf("%s:%d: the last line ends in a backslash and would swallow the next; remove it",
						path, len(raw))
				}
				l.text += "\n" + raw[i]
			}
			l.key, l.value = splitOption(trimmed)
		}
		if err := l.allowed(); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, l.number, err)
		}
		x.lines = append(x.lines, l)
	}
	return x, nil
}

// continues says whether an option goes on after this line. Comments within
// a continued option do not end it (tor manual, "The configuration file").
func continues(line string) bool {
	return strings.HasSuffix(line, `\`) || strings.HasPrefix(strings.TrimSpace(line), "#")
}

// splitOption returns the name and value of "Name value", "+Name value" (add
// to a list) and "/Name" (empty a list).
func splitOption(line string) (key, value string) {
	end := strings.IndexAny(line, " \t")
	if end < 0 {
		end = len(line)
	}
	return strings.ToLower(strings.TrimLeft(line[:end], "+/")), strings.TrimSpace(line[end:])
}

// reserved are the options that torbpf sets, in lower case. "User" is not set
// in the torrc because tor never runs as root.
var reserved = func() map[string]bool {
	keys := map[string]bool{"user": true, "pidfile": true, "virtualaddrnetwork": true}
	for _, d := range (Options{}).directives(true) {
		keys[strings.ToLower(d.key)] = true
	}
	keys["virtualaddrnetworkipv4"], keys["virtualaddrnetworkipv6"] = true, true
	return keys
}()

// once tells whether only one of several tors can have an option: a port to listen on, a file to
// write to, or a service to be.
func (l extraLine) once() bool {
	return strings.HasPrefix(l.key, "hiddenservice") || slices.Contains(onceOptions, l.key)
}

// onceOptions are the others of these, in lower case.
var onceOptions = []string{
	"socksport", "httptunnelport", "natdport", "controlport", "orport", "extorport", "dirport", "metricsport",
	"log", "controlportwritetofile",
}

// allowed refuses options that are torbpf's.
func (l extraLine) allowed() error {
	switch {
	case l.key == "%include":
		// After dropping root, tor may not be able to read the file, and a
		// reload would end it.
		return errors.New("%include is not possible here; write the lines into this file")
	case l.key == "log" && (strings.HasSuffix(l.value, "stdout") || strings.HasSuffix(l.value, "stderr")):
		return fmt.Errorf("the tor that torbpf runs has no terminal; use Log %s file PATH",
			strings.Fields(l.value)[0])
	case reserved[l.key]:
		name, _, _ := strings.Cut(strings.TrimSpace(l.text), " ")
		return fmt.Errorf("%s is set by torbpf; remove the line, or use a tor of your own (--tor system)", name)
	}
	return nil
}
