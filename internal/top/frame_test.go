package top

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it anew); now it is\n%s", path, got)
	}
}

// sizes are those of the frames that are kept.
var sizes = [][2]int{{80, 24}, {40, 12}, {200, 50}, {200, endless}, {plainColumns, endless}}

// TestFrames: what is shown in windows of some sizes.
func TestFrames(t *testing.T) {
	inUTC(t)
	for name, set := range map[string]func(*model){
		"household": func(*model) {},
		"selected":  func(m *model) { m.press(keyDown); m.press(keyDown); m.press("a") },
		"counts":    func(m *model) { m.press("c"); m.press("N") },
		"filtered":  func(m *model) { m.filter = "phone"; m.press("p"); m.press("R") },
		"help":      func(m *model) { m.press("h") },
		"trouble": func(m *model) {
			m.status.Ready, m.status.Stopped, m.status.Tor.Percent, m.status.Tor.Summary = false, 3, 45, "Asking for relay descriptors"
			m.status.Problems = []string{"no table inet torbpf: nothing is redirected", "tor does not answer"}
			m.deaf = fmt.Errorf("somebody else watches already")
			m.refusals = nil
		},
		"nothing": func(m *model) { *m = *newModel(Options{}) },
	} {
		for _, size := range sizes {
			m := fixture()
			set(m)
			golden(t, filepath.Join("testdata", fmt.Sprintf("%s-%dx%d.txt", name, size[0], size[1])), text(m.frame(size[0], size[1])))
		}
	}
}

// TestFramesFit any window, of whatever is shown.
func TestFramesFit(t *testing.T) {
	for name, m := range map[string]*model{"household": fixture(), "many": many(250), "nothing": newModel(Options{})} {
		for _, keys := range []string{"", "h", "c", "/", "jja", "jt"} {
			for columns := 0; columns < 210; columns += 19 {
				for height := 1; height < 60; height += 7 {
					for _, k := range keys {
						m.press(key(k))
					}
					lines := m.frame(columns, height)
					if len(lines) != height {
						t.Fatalf("%s %q: %dx%d has %d lines", name, keys, columns, height, len(lines))
					}
					for _, l := range lines {
						if w := width(l.text()); w > columns {
							t.Fatalf("%s %q: %dx%d has a line of %d columns: %s", name, keys, columns, height, w, l.text())
						}
					}
					m.press(keyEscape)
					m.press(keyEscape)
				}
			}
		}
	}
}

// TestTheSelectedRowIsShown, on whatever page it is.
func TestTheSelectedRowIsShown(t *testing.T) {
	m := many(100)
	m.press("N")
	for range len(m.rows()) {
		m.press(keyDown)
		shown := text(m.frame(80, 24))
		row := m.rows()[m.place(m.rows())]
		if !strings.Contains(shown, squeeze(row.label(), layoutOf(80).name-1)) {
			t.Fatalf("%s is selected and not shown:\n%s", row.label(), shown)
		}
	}
}

// TestNothingOfOthersReachesTheTerminal but what can be seen: names, reasons, what tor says.
func TestNothingOfOthersReachesTheTerminal(t *testing.T) {
	const evil = "a\x1b]0;owned\x07\u202e\u200d\r\n\x9b31m\xff\u0301b"
	for columns := 30; columns < 200; columns += 13 {
		m := fixture()
		m.after.Devices[0].Name, m.after.Devices[1].MAC = evil, evil
		m.after.Devices[2].Policy = evil
		m.cached = nil
		m.after.Refused[evil] = m.after.Refused["quic"]
		m.status.Interfaces[0].Name, m.status.Tor.Summary, m.status.Tor.Version = evil, evil, evil
		m.status.Problems = []string{evil}
		m.filter = ""
		e := refusedEvent(0, evil, "192.0.2.1:1", evil, 17)
		e.Packet.Meaning = evil
		m.setEvent(e)
		m.deaf = fmt.Errorf("%s", evil)
		for _, keys := range []string{"", "ja", "c"} {
			for _, k := range keys {
				m.press(key(k))
			}
			for _, l := range m.frame(columns, 30) {
				for _, r := range l.text() {
					if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || strings.ContainsRune("\u202e\u200d\u0301", r) && r != '\u0301' {
						t.Fatalf("%d columns: %q", columns, l.text())
					}
				}
			}
		}
		m.say(evil, true)
		if got := m.frame(columns, 30)[29].text(); strings.ContainsAny(got, "\x1b\r\n\u009b\u202e") {
			t.Fatalf("what came of a change: %q", got)
		}
	}
}
