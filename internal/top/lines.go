package top

import (
	"fmt"
	"slices"

	"github.com/torbpf/torbpf/internal/router"
)

// state tells of Tor, and of what is wrong.
func (m *model) state() []line {
	if m.statusErr != nil {
		return []line{{{"the status cannot be read: " + m.statusErr.Error(), bad}}}
	}
	if m.status == nil {
		return []line{{{"the status is being read", faint}}}
	}
	text, ready := torWords(m.status)
	if ready {
		text += m.relayedWords()
	}
	s := plain
	if !ready {
		s = bad
	}
	out := []line{{{text, s}}}
	if m.status.Stopped > 0 {
		out = append(out, line{{fmt.Sprintf("! %d packets got as far as the last guards: torbpf check", m.status.Stopped), bad}})
	}
	if n := len(m.status.Problems); n > 0 {
		more := ""
		if n > 1 {
			more = fmt.Sprintf(" (torbpf status has %d more)", n-1)
		}
		out = append(out, line{{"! " + m.status.Problems[0] + more, bad}})
	}
	return out
}

// torWords say how Tor is, and whether devices are served.
func torWords(s *router.Status) (text string, ready bool) {
	t := s.Tor
	if !t.Alive {
		return "Tor does not answer, so devices are refused: " + t.Summary, false
	}
	text = "Tor " + t.Version
	if n := len(t.Instances); n > 1 {
		ready := 0
		for _, i := range t.Instances {
			if i.Ready {
				ready++
			}
		}
		text += fmt.Sprintf(", %d of %d ready", ready, n)
	}
	if s.Ready {
		if len(t.Instances) < 2 {
			text += " ready"
		}
		return text, true
	}
	return fmt.Sprintf("Tor is not ready, so devices are refused: %d%%, %s", t.Percent, t.Summary), false
}

// relayedWords say how many circuits all tors have, what they have read from relays and written
// to them since they were started, and how fast that goes.
func (m *model) relayedWords() string {
	circuits, read, written := 0, uint64(0), uint64(0)
	for _, i := range m.status.Tor.Instances {
		circuits, read, written = circuits+i.Circuits, read+i.Read, written+i.Written
	}
	return fmt.Sprintf(", %d circuits, in %sB %s bit/s, out %sB %s bit/s", circuits,
		number(float64(read)), number(m.relayed[0].Bits), number(float64(written)), number(m.relayed[1].Bits))
}

// refused is the heading of the refusals, with the reasons of those of now, and the last ones.
func (m *model) refused(columns, room int) []line {
	heading := line{{"REFUSED", strong}}
	for _, r := range refusedRates(m.before, m.after) {
		if r.rate.Packets > 0 {
			heading = append(heading, span{fmt.Sprintf("  %s %s/s", r.reason, number(r.rate.Packets)), bad})
		}
	}
	lines := []line{heading}
	shown := m.shownRefusals(room)
	reasons := 0
	for _, r := range shown {
		reasons = max(reasons, width(r.reason))
	}
	for _, r := range shown {
		s := plain
		if r.alarm {
			s = bad
		}
		lines = append(lines, line{{r.cleaned().line(columns, reasons), s}})
	}
	switch {
	case m.deaf != nil && len(lines) <= room:
		lines = append(lines, line{{"refusals are counted, but not shown: " + m.deaf.Error(), faint}})
	case m.back > 0:
		heading[0].text = fmt.Sprintf("REFUSED (%d newer)", m.back)
	}
	return lines
}

// shownRefusals are those for which there is room.
func (m *model) shownRefusals(room int) []refusal {
	list := m.refusals[:len(m.refusals)-min(m.back, len(m.refusals))]
	list = slices.DeleteFunc(slices.Clone(list), func(r refusal) bool { return !r.matches(m.filter) })
	return list[max(0, len(list)-room):]
}

// cleaned is a refusal as it may be measured.
func (r refusal) cleaned() refusal {
	r.who, r.to, r.reason, r.meaning = clean(r.who), clean(r.to), clean(r.reason), clean(r.meaning)
	return r
}

// lastLine is what is asked or told, or which keys there are.
func (m *model) lastLine(columns int) line {
	switch {
	case m.asked != nil:
		return line{{m.asked.question(columns), strong}}
	case m.typing:
		return line{{"show only: " + m.filter + "_  (enter keeps it, escape shows all)", strong}}
	case m.busy:
		return line{{"the change is being made", faint}}
	case m.said != "" && m.bad:
		return line{{m.said, bad}}
	case m.said != "":
		return line{{m.said, strong}}
	case m.helps:
		return line{{"any key goes back", faint}}
	}
	return line{{hint(columns), faint}}
}
