package top

import "strings"

// layout says how wide the columns of a frame are.
type layout struct {
	columns int
	name    int
	under   int  // 0: not shown
	addrs   int  // likewise
	each    int  // of what becomes of packets, the space before it included
	both    bool // packets and bits, both
	sums    bool // and packets since attach, in as many columns more
}

// From how many columns on there is more to see.
const (
	withUnder = 56
	withBoth  = 76
	withAddrs = 124
	withSums  = 172
)

const (
	underColumns = 12 // "direct 9m" and a space
	nameColumns  = 32
	rateColumns  = 12 // " 1.23k 98.2M"
	oneColumn    = 7  // " 98.2M"
)

func layoutOf(columns int) layout {
	l := layout{columns: columns, each: oneColumn, both: columns >= withBoth, sums: columns >= withSums}
	rest := columns - 1
	if l.both {
		l.each = rateColumns
		rest = columns
	}
	rest -= countFates * l.each
	if l.sums {
		rest -= countFates * l.each
	}
	if columns >= withUnder {
		l.under = underColumns
		rest -= l.under
	}
	l.name = max(rest, 8)
	if columns >= withAddrs {
		l.name = min(l.name, nameColumns)
		l.addrs = rest - l.name
		if l.addrs < 41 {
			l.name -= 41 - l.addrs
			l.addrs = 41
		}
	}
	return l
}

// begin is how wide it is up to the numbers.
func (l layout) begin() int { return l.name + l.under + l.addrs }

// headings are the names of the columns, of which that is strong by which rows are sorted.
func (l layout) headings(m *model) []line {
	names := line{{left("DEVICE", l.name), faint}}
	if m.order.by == ByName {
		names[0].style = strong
	}
	if l.under > 0 {
		names = append(names, span{left("UNDER", l.under), faint})
	}
	if l.addrs > 0 {
		names = append(names, span{left("ADDRESSES", l.addrs), faint})
	}
	for i, fate := range fates {
		word := strings.ToUpper(fate)
		if word == "TOR" && l.both {
			word = "BY TOR"
		}
		s := faint
		if m.order.by == Sort(i) {
			s = strong
		}
		names = append(names, span{right(word, l.wide(i)), s})
	}
	if !l.both {
		return []line{names}
	}
	units := line{{left("", l.begin()), faint}}
	for range fates {
		unit := "pkt/s bit/s"
		if m.counts {
			unit = "packets"
		}
		units = append(units, span{right(unit, l.each), faint})
	}
	if l.sums {
		names = append(names, span{right("PACKETS SINCE ATTACH", countFates*l.each), faint})
		for _, fate := range fates {
			units = append(units, span{right(fate, l.each), faint})
		}
	}
	return []line{names, units}
}

// wide is how wide a column is: the last of one number has a longer heading.
func (l layout) wide(i int) int {
	if !l.both && i == countFates-1 {
		return l.each + 1
	}
	return l.each
}

// unitWords say what rates are of.
func (l layout) unitWords(m *model) string {
	if l.both {
		return "a second"
	}
	return m.unit()
}

// sumWords say what sums are of.
func (l layout) sumWords() string {
	if l.both {
		return "all packets since attach"
	}
	return "packets"
}

// row is that of a device.
func (l layout) row(m *model, r Row) line {
	name := clean(r.label())
	if l.under == 0 {
		name = map[style]string{opened: "+", bad: "-"}[styleOf(r.Policy)] + name
	}
	out := line{{left(squeeze(name, l.name-1), l.name), styleOf(r.Policy)}}
	if l.under > 0 {
		out = append(out, span{left(under(r.DeviceStatus, m.after.At), l.under-1) + " ", styleOf(r.Policy)})
	}
	if l.addrs > 0 {
		out = append(out, span{left(l.addresses(r), l.addrs-1) + " ", faint})
	}
	if m.counts {
		out = append(out, l.counts(r)...)
	} else {
		out = append(out, l.rates(m.order.packets, r)...)
	}
	if l.sums {
		out = append(out, l.counts(r)...)
	}
	return out
}

// addresses are as many as there is room for.
func (l layout) addresses(r Row) string {
	text := ""
	for i, a := range r.Addrs {
		if i > 0 && width(text)+1+width(a.String()) >= l.addrs {
			break
		}
		text = strings.TrimSpace(text + " " + a.String())
	}
	return squeeze(text, l.addrs-1)
}

// rates are the numbers of a row.
func (l layout) rates(packets bool, r Row) line {
	var out line
	for i, rate := range r.Rate {
		text := right(number(rate.Bits), l.wide(i))
		switch {
		case l.both:
			text = " " + right(number(rate.Packets), 5) + " " + right(number(rate.Bits), 5)
		case packets:
			text = right(number(rate.Packets), l.wide(i))
		}
		out = append(out, span{text, shade(i, rate.Packets > 0)})
	}
	return out
}

// counts are packets since attach.
func (l layout) counts(r Row) line {
	var out line
	for i, t := range r.Sum {
		out = append(out, span{" " + right(count(t.Packets, l.wide(i)-1), l.wide(i)-1), shade(i, t.Packets > 0)})
	}
	return out
}

// shade is how the number of a column looks: nothing at all is faint.
func shade(fate int, some bool) style {
	if !some {
		return faint
	}
	return map[string]style{"direct": opened, "refused": bad}[fates[fate]]
}
