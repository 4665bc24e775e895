package top

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
)

// TestRates are told by the time between two readings, whatever the clock on the wall does.
func TestRates(t *testing.T) {
	for _, c := range []struct {
		before, after loader.Traffic
		took          time.Duration
		want          Rate
	}{
		{loader.Traffic{Packets: 10, Bytes: 1000}, loader.Traffic{Packets: 30, Bytes: 4000}, 2 * time.Second, Rate{10, 12000}},
		{loader.Traffic{Packets: 10, Bytes: 1000}, loader.Traffic{Packets: 10, Bytes: 1000}, time.Second, Rate{}},
		{loader.Traffic{Packets: 10, Bytes: 1000}, loader.Traffic{Packets: 3, Bytes: 300}, time.Second, Rate{3, 2400}}, // began anew
		{loader.Traffic{Packets: 10, Bytes: 9000}, loader.Traffic{Packets: 12, Bytes: 300}, time.Second, Rate{12, 2400}},
		{loader.Traffic{Packets: 10, Bytes: 300}, loader.Traffic{Packets: 3, Bytes: 1000}, time.Second, Rate{3, 8000}},
		{loader.Traffic{}, loader.Traffic{Packets: 5, Bytes: 50}, 0, Rate{}},
		{loader.Traffic{}, loader.Traffic{Packets: 5, Bytes: 50}, -time.Second, Rate{}},
	} {
		if got := rateOf(c.before, c.after, c.took); got != c.want {
			t.Errorf("from %v to %v in %v: %v, want %v", c.before, c.after, c.took, got, c.want)
		}
	}
	begin := time.Now()
	rows := rowsOf(Reading{At: begin}, Reading{At: begin.Add(2 * time.Second), Devices: devicesAt(true)[1:2]})
	if got := rows[0].Rate[0].Packets; got != float64(12_345_678+412)/2 {
		t.Errorf("of a device that was not there before: %v packets a second", got)
	}
	if rows := rowsOf(Reading{}, Reading{At: begin, Devices: devicesAt(true)}); rows[0].total() != (Rate{}) {
		t.Errorf("with nothing read before: %+v", rows[0])
	}
}

// TestSumsAreExact: nothing is lost between devices and what is told of all.
func TestSumsAreExact(t *testing.T) {
	m := many(250)
	sum := sumOf(m.all())
	for i, fate := range fates {
		var want loader.Traffic
		for _, d := range m.after.Devices {
			want.Packets += d.Traffic[fate].Packets
			want.Bytes += d.Traffic[fate].Bytes
		}
		if sum.Sum[i] != want {
			t.Errorf("%s: %v, want %v", fate, sum.Sum[i], want)
		}
	}
}

// TestThisMachine has a row where it is on Tor, with rates of its own readings.
func TestThisMachine(t *testing.T) {
	m := fixture()
	s := *m.status
	s.OwnTraffic = map[string]loader.Traffic{"tor": {Packets: 100, Bytes: 1000}, "tor_itself": {Packets: 7}}
	m.setStatus(&s, noon, nil)
	later := s
	later.OwnTraffic = map[string]loader.Traffic{"tor": {Packets: 200, Bytes: 2000}}
	m.setStatus(&later, noon.Add(5*time.Second), nil)
	rows := m.all()
	if r := rows[len(rows)-1]; r.Name != thisMachine || r.Rate[0] != (Rate{20, 1600}) || r.Sum[0].Packets != 200 {
		t.Errorf("it is %+v", r)
	}
	m.order.by, m.filter = ByName, thisMachine
	m.press(keyDown)
	if m.press("a"); m.asked != nil || !strings.Contains(m.said, "--client") {
		t.Errorf("it may be allowed: %v, %s", m.asked, m.said)
	}
}

// TestWhatTorsCarry is told by what each has read and written since it was started.
func TestWhatTorsCarry(t *testing.T) {
	before, after := fixtureStatus(), fixtureStatus()
	before.Tor.Instances = append(before.Tor.Instances, router.TorInstance{Read: 9000, Written: 9000})
	after.Tor.Instances = append(after.Tor.Instances, router.TorInstance{Read: 1000, Written: 500}) // started anew
	after.Tor.Instances = append(after.Tor.Instances, router.TorInstance{Read: 1 << 40})            // not there before
	after.Tor.Instances[0].Read += 4000
	if got := relayedBetween(before, after, 2*time.Second); got[0].Bits != 20000 || got[1].Bits != 2000 {
		t.Errorf("%v", got)
	}
	if got := relayedBetween(nil, after, time.Second); got != [2]Rate{} {
		t.Errorf("at first: %v", got)
	}
}

// TestSorting by each column, and back.
func TestSorting(t *testing.T) {
	for keys, want := range map[string]string{
		"N":   "a-very-long-name-that-somebody-gave-to-the-thermostat-upstairs kitchen-tv laptop phone printer 02:00:5e:10:00:04 10.66.0.7",
		"NN":  "10.66.0.7 02:00:5e:10:00:04 printer phone laptop kitchen-tv a-very-long-name-that-somebody-gave-to-the-thermostat-upstairs",
		"A":   "10.66.0.7 a-very-long-name-that-somebody-gave-to-the-thermostat-upstairs printer 02:00:5e:10:00:04 phone laptop kitchen-tv",
		"NA":  "kitchen-tv laptop phone 02:00:5e:10:00:04",
		"T":   "laptop phone a-very-long-name-that-somebody-gave-to-the-thermostat-upstairs",
		"D":   "kitchen-tv",
		"L":   "laptop printer kitchen-tv",
		"R":   "phone laptop 02:00:5e:10:00:04",
		"pR":  "phone laptop 02:00:5e:10:00:04",
		"pNA": "kitchen-tv laptop phone 02:00:5e:10:00:04 printer",
	} {
		m := fixture()
		for _, k := range keys {
			m.press(key(k))
		}
		var got []string
		for _, r := range m.rows() {
			got = append(got, r.label())
		}
		if !strings.HasPrefix(strings.Join(got, " "), want) {
			t.Errorf("%s: %v, want %s", keys, got, want)
		}
	}
	for _, name := range SortNames() {
		if s, err := ParseSort(name); err != nil || s.String() != name {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := ParseSort("colour"); err == nil {
		t.Error("by colour")
	}
}

// TestTheFilter keeps whom it is about, and their refusals.
func TestTheFilter(t *testing.T) {
	for filter, want := range map[string]int{"PHONE": 1, "50.1": 6, "2001:db8": 2, "block": 1, "nobody": 0, "5e:10:00:04": 1} {
		if got := len(filtered(rowsOf(Reading{}, Reading{Devices: devicesAt(true)}), filter)); got != want {
			t.Errorf("%q: %d devices, want %d", filter, got, want)
		}
	}
	m := fixture()
	for _, k := range []key{"/", "q", "u", "x", keyBackspace, "i", "c", keyEnter} {
		m.press(k)
	}
	if got := m.shownRefusals(9); m.filter != "quic" || m.typing || len(got) != 3 || got[2].times != 2 {
		t.Errorf("with %q: %+v", m.filter, got)
	}
	if m.press(keyEscape); m.filter != "" {
		t.Errorf("escape leaves %q", m.filter)
	}
}

// TestRefusalsScroll, and what is looked at stays.
func TestRefusalsScroll(t *testing.T) {
	m := fixture()
	m.press("[")
	last := m.shownRefusals(3)
	m.setEvent(refusedEvent(0, "printer", "192.0.2.9:9", "udp", 17))
	if got := m.shownRefusals(3); !slices.Equal(got, last) || m.back != 2 {
		t.Errorf("it moved: %v, was %v", got, last)
	}
	for range 3 * keepRefusals {
		m.press("]")
		m.setEvent(refusedEvent(0, "printer", "192.0.2.9:9", "udp", 17))
		m.setEvent(refusedEvent(0, "phone", "192.0.2.9:9", "udp", 17))
	}
	if len(m.refusals) != keepRefusals {
		t.Errorf("%d are kept", len(m.refusals))
	}
	m.setEvent(router.Event{Kind: router.EventPolicy, Text: "not a packet"})
	if len(m.refusals) != keepRefusals {
		t.Error("what is no packet is listed")
	}
}

// TestNumbers fit five columns.
func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.04: "0.0", 0.5: "0.5", 7: "7", 9.94: "9.9", 9.96: "10", 10.2: "10", 999: "999", 999.4: "999", 999.6: "1.00k", 1234: "1.23k", 9_994: "9.99k",
		9_996: "10.0k", 99_949: "99.9k", 99_951: "100k", 999_400: "999k", 999_600: "1.00M", 12_345_678: "12.3M", 1e9: "1.00G", 4e13: "40.0T", 1e19: "10.0E", 1e21: "1000E",
	} {
		if got := number(v); got != want || len(got) > 5 {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	if got := count(99_999_999_999, 11); got != "99999999999" {
		t.Errorf("exactly: %s", got)
	}
	if got := count(100_000_000_000, 11); got != "100G" {
		t.Errorf("beyond: %s", got)
	}
}

// TestTexts that are too long lose what matters least.
func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{cut("kitchen-tv", 10), "kitchen-tv"}, {cut("kitchen-tv", 8), "kitchen~"}, {cut("abc", 0), ""}, {cut("ä", 1), "ä"},
		{squeeze("2001:db8:4860:4864:1234:5678:9abc:def0", 15), "2001:db~bc:def0"}, {squeeze("thermostat", 4), "the~"},
		{cut("電視電視", 5), "電視~"}, {squeeze("電視電視電視", 7), "電~電視"},
		{left("電", 4), "電  "}, {right("電", 4), "  電"}, {clean("a\x1b[31mb"), "a?[31mb"},
		{short(25 * time.Hour), "1d"}, {short(90 * time.Minute), "1h"}, {short(90 * time.Second), "1m"}, {short(59 * time.Second), "59s"}, {short(-time.Second), "0s"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// TestChangesAreAskedAbout: nothing is done before y, and nothing else is.
func TestChangesAreAskedAbout(t *testing.T) {
	m := fixture()
	if e := m.press("a"); e.change != nil || !strings.Contains(m.said, "choose a device") {
		t.Errorf("nobody is selected: %v, %s", e, m.said)
	}
	m.press("N")
	m.press(keyDown)
	m.press(keyDown)
	for k, policy := range map[key]string{"a": "direct", "t": "tor", "b": "block"} {
		m.press(k)
		if !strings.Contains(m.lastLine(80).text(), "kitchen-tv") {
			t.Errorf("%s asks %s", k, m.lastLine(80).text())
		}
		if e := m.press("n"); e.change != nil || m.asked != nil || m.said != "nothing was changed" {
			t.Errorf("%s n: %v", k, e)
		}
		m.press(k)
		e := m.press("y")
		if e.change == nil || e.change.Who != "02:00:5e:10:00:01" || string(e.change.Policy) != policy || !m.busy {
			t.Errorf("%s y: %+v", k, e.change)
		}
		if m.press("b"); m.asked != nil {
			t.Error("one is asked about while another is made")
		}
		m.setChanged("added", nil)
	}
	m.setChanged("", errors.New("no"))
	if m.said != "not changed: no" || !m.bad {
		t.Errorf("it says %s", m.said)
	}
	for _, k := range []key{"q", keyInterrupt} {
		if !m.press(k).quit {
			t.Errorf("%s does not quit", k)
		}
	}
}
