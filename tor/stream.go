package tor

import (
	"net/netip"
	"strings"

	"github.com/torbpf/torbpf/internal/circuits"
)

// labelMax is the most bytes that a label of a name can have (RFC 1035, section 2.3.4).
const labelMax = 63

// wholeStream tells whether a line is the end of what tor itself tells of a stream.
//
// tor writes the name that a device asks for into its events as it is, line breaks included
// (seen in 0.4.9), so a device can write lines of its own between the begin of an event and
// its end. But a name is of labels, with a dot after 63 bytes at most, and the end that tor
// writes is longer and has none.
func wholeStream(line string) (fields string, whole bool) {
	at := strings.LastIndex(line, tailBegin)
	if at < 0 || len(line)-at <= labelMax {
		return "", false
	}
	protocol, rest, hasEpoch := strings.Cut(line[at+len(tailBegin):], " NYM_EPOCH=")
	epoch, rest, hasGroup := strings.Cut(rest, " SESSION_GROUP=")
	group, fields, hasFields := strings.Cut(rest, " ISO_FIELDS=")
	whole = hasEpoch && hasGroup && hasFields && isOf(protocol, "") && isOf(epoch, "") && isOf(group, "-") && isOf(fields, "_,")
	return fields, whole
}

// tailBegin begins how tor ends what it tells of a stream (control-spec, "Stream status changed").
const tailBegin = " CLIENT_PROTOCOL="

// isOf tells whether a text is of capital letters, digits and what else may be in it: without a dot.
func isOf(s, more string) bool {
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

// eventReader tells tor's own lines from those that devices have put between.
type eventReader struct {
	torn bool // the last event has not ended, so what comes is a device's
	data bool // within the lines of an answer, whose begins are numbers of circuits
}

// kindOfLine is what eventReader makes of a line.
type kindOfLine int

const (
	lineForeign kindOfLine = iota // a part of an event that somebody has written into
	lineStream                    // what tor tells of a stream
	lineReply                     // of an answer to a question
)

const streamHead = "650 STREAM "

// judge says what a line is. An event that was torn is of no stream that there will be: tor
// refuses such names.
func (r *eventReader) judge(line string) kindOfLine {
	_, whole := wholeStream(line)
	switch {
	case r.data:
		r.data = line != "."
		return lineReply
	case r.torn:
		r.torn = !whole
		return lineForeign
	case !strings.HasPrefix(line, "650"):
		r.data = len(line) > 3 && line[3] == '+'
		return lineReply
	case !whole || !strings.HasPrefix(line, streamHead):
		r.torn = true
		return lineForeign
	}
	return lineStream
}

// sourceField is who has begun a stream. What stands before its last mention is the target,
// which a device may have chosen.
const sourceField = " SOURCE_ADDR="

// parseStream reads a whole line of the kind lineStream: 650 STREAM ID STATUS CIRCUIT TARGET …
func parseStream(line string) (circuits.Stream, bool) {
	fields := strings.SplitN(strings.TrimPrefix(line, streamHead), " ", 4)
	if len(fields) < 4 {
		return circuits.Stream{}, false
	}
	var s circuits.Stream
	var err, circuitErr error
	s.ID, err = parseID(fields[0])
	s.Circuit, circuitErr = parseID(fields[2])
	if err != nil || circuitErr != nil {
		return circuits.Stream{}, false
	}
	s.Closed = fields[1] == "CLOSED"
	isolated, _ := wholeStream(line)
	s.Alone = strings.Contains(isolated, "CLIENTADDR")
	if fields[1] == "NEW" || fields[1] == "NEWRESOLVE" {
		s.Source = sourceOf(fields[3])
	}
	return s, true
}

// sourceOf returns the address that a stream comes from; an invalid one for tor's own streams.
func sourceOf(rest string) netip.Addr {
	at := strings.LastIndex(rest, sourceField)
	if at < 0 {
		return netip.Addr{}
	}
	source, _, _ := strings.Cut(rest[at+len(sourceField):], " ")
	port := strings.LastIndexByte(source, ':')
	if port < 0 {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(strings.Trim(source[:port], "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}
