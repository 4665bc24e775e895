package tor

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Relay is one of the network's, or a bridge.
type Relay struct {
	Fingerprint string `json:"fingerprint"` // 40 digits in upper case
	Nickname    string `json:"nickname"`    // "" where tor knows none
}

// relayName is what tor calls a relay by (control-spec, "LongName").
var relayName = regexp.MustCompile(`^\$([0-9A-F]{40})(?:[~=]([A-Za-z0-9]{1,19}))?$`)

// parseRelay reads $FINGERPRINT~nickname. Whoever runs a relay has chosen its nickname: one
// that tor itself would not take is an error, and reaches no terminal.
func parseRelay(s string) (Relay, error) {
	m := relayName.FindStringSubmatch(s)
	if m == nil {
		return Relay{}, fmt.Errorf("%.80q is no relay", s)
	}
	return Relay{Fingerprint: m[1], Nickname: m[2]}, nil
}

// Built is the state of a circuit that can be used.
const Built = "BUILT"

// Circuit is one of tor's own.
type Circuit struct {
	ID      uint64
	State   string  // LAUNCHED, EXTENDED, GUARD_WAIT or BUILT (control-spec, "CircStatus")
	Path    []Relay // as far as it is built
	Purpose string  // GENERAL, HS_CLIENT_REND…
	Created time.Time
	Conflux string // the set of circuits that share their streams; "" for a single one
}

// circuitTime is how tor writes when a circuit was made, in UTC.
const circuitTime = "2006-01-02T15:04:05.999999"

// parseCircuits reads GETINFO circuit-status (control-spec, "Circuit status changed").
func parseCircuits(text string) ([]Circuit, error) {
	var out []Circuit
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		c, err := parseCircuit(line)
		if err != nil {
			return nil, fmt.Errorf("read tor's circuit %.200q: %w", line, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func parseCircuit(line string) (Circuit, error) {
	ws, err := words(line)
	if err != nil {
		return Circuit{}, err
	}
	if len(ws) < 2 || ws[0].key != "" || ws[1].key != "" {
		return Circuit{}, fmt.Errorf("it has no number and state")
	}
	c := Circuit{State: printable(ws[1].value)}
	if c.ID, err = parseID(ws[0].value); err != nil {
		return Circuit{}, err
	}
	rest := ws[2:]
	// A name with = in it splits as a keyword would, so the path is taken from the line itself.
	if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[2], "$") {
		for name := range strings.SplitSeq(fields[2], ",") {
			relay, err := parseRelay(name)
			if err != nil {
				return Circuit{}, err
			}
			c.Path = append(c.Path, relay)
		}
		rest = ws[3:]
	}
	for _, w := range rest {
		switch w.key {
		case "PURPOSE":
			c.Purpose = printable(w.value)
		case "CONFLUX_ID":
			c.Conflux = printable(w.value)
		case "TIME_CREATED":
			if c.Created, err = time.Parse(circuitTime, w.value); err != nil {
				return Circuit{}, err
			}
		}
	}
	return c, nil
}

// printable is what tor says as a terminal may be given it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' {
			return '?'
		}
		return r
	}, s)
}
