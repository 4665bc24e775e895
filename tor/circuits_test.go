package tor

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	fingerprintA = "A1B2C3D4E5F60718293A4B5C6D7E8F9001122334"
	fingerprintB = "00112233445566778899AABBCCDDEEFF00112233"
)

func TestCircuitsAreRead(t *testing.T) {
	made := time.Date(2026, 11, 27, 6, 50, 1, 123456000, time.UTC)
	for line, want := range map[string]Circuit{
		"1 LAUNCHED BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL TIME_CREATED=2026-11-27T06:50:01.123456": {
			ID: 1, State: "LAUNCHED", Purpose: "GENERAL", Created: made,
		},
		"27 BUILT $" + fingerprintA + "~guard,$" + fingerprintB + " PURPOSE=CONFLUX_LINKED TIME_CREATED=2026-11-27T06:50:01.123456 CONFLUX_ID=AB12 CONFLUX_RTT=4": {
			ID: 27, State: Built, Path: []Relay{{fingerprintA, "guard"}, {fingerprintB, ""}}, Purpose: "CONFLUX_LINKED", Created: made, Conflux: "AB12",
		},
		"3 BUILT $" + fingerprintA + "=old PURPOSE=HS_CLIENT_REND HS_STATE=HSCR_JOINED REND_QUERY=abc SOCKS_USERNAME=\"a PURPOSE=X \\033[2J\"": {
			ID: 3, State: Built, Path: []Relay{{fingerprintA, "old"}}, Purpose: "HS_CLIENT_REND",
		},
	} {
		got, err := parseCircuits(line + "\r\n")
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	if got, err := parseCircuits(""); len(got) != 0 || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
}

// TestCircuitsThatTorWouldNotTellAreErrors: a nickname that could drive a terminal above all.
func TestCircuitsThatTorWouldNotTellAreErrors(t *testing.T) {
	for _, line := range []string{
		"x BUILT", "1", "-1 BUILT", "1 BUILT $" + fingerprintA + "~\x1b[31mred", "1 BUILT $" + fingerprintA + "~twentycharactersnames",
		"1 BUILT $" + fingerprintA[1:] + "~a", "1 BUILT $" + fingerprintA + "~a,b", "1 BUILT PURPOSE=\"open", "1 BUILT TIME_CREATED=today",
	} {
		if got, err := parseCircuits(line); err == nil {
			t.Errorf("%q is %+v", line, got)
		} else if strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("the error drives the terminal: %q", err)
		}
	}
}

func TestOnlyWhatCanBePrintedIs(t *testing.T) {
	if got := printable("Done\x1b[2J\r\n\x7f\u009b31m ünd\xff"); got != "Done?[2J????31m ünd?" {
		t.Errorf("%q", got)
	}
}
