package top

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// style is how a part of a line looks.
type style int

const (
	plain style = iota
	strong
	faint
	chosen // the selected row
	opened // what goes direct
	bad    // refused, blocked, wrong
)

// span is a part of a line.
type span struct {
	text  string
	style style
}

// line is one of a frame.
type line []span

// text is a line without its looks.
func (l line) text() string {
	var b strings.Builder
	for _, s := range l {
		b.WriteString(s.text)
	}
	return strings.TrimRight(b.String(), " ")
}

// fit cleans a line and cuts it to some columns.
func (l line) fit(columns int) line {
	var out line
	for _, s := range l {
		text := cut(clean(s.text), columns)
		columns -= width(text)
		out = append(out, span{text, s.style})
	}
	return out
}

// endless is the height of a frame that shows all there is, for who has no screen.
const endless = 0

// frame is what a screen of some size shows; all there is if its height is endless.
func (m *model) frame(columns, height int) []line {
	l := layoutOf(columns)
	above := m.above(l)
	if height != endless && height < 20 {
		above = slices.DeleteFunc(above, func(l line) bool { return len(l) == 0 })
	}
	below := []line{m.lastLine(columns)}
	if height == endless {
		below = nil
	}
	room := height - len(above) - len(below)
	var lines []line
	switch {
	case height == endless:
		lines = append(above, m.devices(l, m.rows(), endless)...)
		lines = append(append(lines, nil), m.refused(columns, keepRefusals)...)
	case m.helps:
		lines = append(above[:min(2, len(above))], help(height-3)...)
	default:
		lines = append(above, m.both(l, room, height >= 20)...)
	}
	if height != endless {
		lines = append(padded(lines, height-len(below)), below...)
	}
	for i := range lines {
		lines[i] = lines[i].fit(columns)
	}
	return lines
}

// both are the devices and, below them, the refusals, which have a quarter of the room, or what
// the devices leave.
func (m *model) both(l layout, room int, spaced bool) []line {
	rows := m.rows()
	refused := m.refused(l.columns, max(1, room/4, room-max(len(rows), 1)-2))
	if spaced {
		refused = append([]line{nil}, refused...)
	}
	if room-len(refused) < 2 {
		refused = nil
	}
	devices := m.devices(l, rows, max(room-len(refused), 1))
	return append(padded(devices, room-len(refused)), refused...)
}

// padded makes lines so many.
func padded(lines []line, height int) []line {
	for len(lines) < height {
		lines = append(lines, nil)
	}
	return lines[:max(height, 0)]
}

// help is the explanation of the keys.
func help(height int) []line {
	lines := []line{nil}
	for _, h := range helpLines {
		lines = append(lines, line{{h, plain}})
	}
	return lines[:max(0, min(height, len(lines)))]
}

// above is what stands above the devices.
func (m *model) above(l layout) []line {
	lines := []line{m.title(l.columns)}
	lines = append(lines, m.state()...)
	lines = append(lines, nil)
	lines = append(lines, l.headings(m)...)
	sum := sumOf(m.all())
	return append(lines,
		append(line{{left("all "+l.unitWords(m), l.begin()), strong}}, l.rates(m.order.packets, sum)...),
		append(line{{left(l.sumWords(), l.begin()), strong}}, l.counts(sum)...),
	)
}

// title is the first line: what is shown, and the time.
func (m *model) title(columns int) line {
	parts := []string{"torbpf top"}
	if m.status != nil {
		var names []string
		for _, i := range m.status.Interfaces {
			names = append(names, i.Name)
		}
		parts = append(parts, strings.Join(names, ", "))
	}
	sorted := "by " + m.order.by.String()
	if m.order.by != ByName {
		sorted += " " + m.unit()
	}
	if m.order.reverse {
		sorted += ", reversed"
	}
	parts = append(parts, sorted)
	if m.filter != "" {
		parts = append(parts, fmt.Sprintf("with %q", m.filter))
	}
	clock := m.after.At.Local().Format(time.TimeOnly)
	begin := max(0, columns-len(clock)-1)
	return line{{left(clean(strings.Join(parts, "  ")), begin), strong}, {" " + clock, plain}}
}

// unit is what rows are sorted by.
func (m *model) unit() string {
	if m.order.packets {
		return "pkt/s"
	}
	return "bit/s"
}

// devices are the rows, of which the page with the selected one is shown.
func (m *model) devices(l layout, rows []Row, room int) []line {
	selected := m.place(rows)
	if room != endless && len(rows) > room {
		first := max(selected, 0) / room * room
		rows = rows[first:min(first+room, len(rows))]
		selected -= first
	}
	var out []line
	for i, r := range rows {
		row := l.row(m, r)
		if i == selected {
			row = line{{left(row.text(), l.columns), chosen}}
		}
		out = append(out, row)
	}
	if len(rows) == 0 {
		nobody := "no device has sent anything, or is a neighbour"
		if m.filter != "" {
			nobody = fmt.Sprintf("no device with %q", m.filter)
		}
		out = append(out, line{{nobody, faint}})
	}
	return out
}

// styleOf is how a policy looks.
func styleOf(p config.Policy) style {
	switch p {
	case config.PolicyDirect:
		return opened
	case config.PolicyBlock:
		return bad
	}
	return plain
}
