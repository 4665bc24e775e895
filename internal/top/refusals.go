package top

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// keepRefusals is how many of them are kept to be shown.
const keepRefusals = 200

// refusal is a packet that was refused, or several in a row that differ in their time alone.
type refusal struct {
	time    time.Time // of the last
	times   int
	alarm   bool
	who     string // a name, a hardware address or an address
	to      string
	proto   string
	reason  string
	meaning string
}

// refusalOf is what an event tells; false: of no packet.
func refusalOf(e router.Event) (refusal, bool) {
	if e.Packet == nil {
		return refusal{}, false
	}
	p := e.Packet
	who := e.Device
	if who == "" {
		who = p.Src.Addr().String()
	}
	to := p.Dst.String()
	if p.Dst.Port() == 0 {
		to = p.Dst.Addr().String()
	}
	return refusal{
		time: e.Time, times: 1, alarm: e.Kind == router.EventAlarm,
		who: who, to: to, proto: config.ProtocolName(p.Protocol), reason: p.Reason, meaning: p.Meaning,
	}, true
}

// same tells whether two differ in their time alone.
func (r refusal) same(o refusal) bool {
	r.time, r.times = o.time, o.times
	return r == o
}

// appendRefusal adds one, and forgets the oldest.
func appendRefusal(list []refusal, r refusal) []refusal {
	if last := len(list) - 1; last >= 0 && list[last].same(r) {
		list[last].time, list[last].times = r.time, list[last].times+1
		return list
	}
	list = append(list, r)
	if len(list) > keepRefusals {
		list = slices.Delete(list, 0, len(list)-keepRefusals)
	}
	return list
}

func (r refusal) matches(filter string) bool {
	return matches(filter, r.who, r.to, r.proto, r.reason)
}

// line tells it in some columns: why, who, to whom, and what that means if there is room.
func (r refusal) line(columns, reasons int) string {
	var b strings.Builder
	if columns >= 60 {
		b.WriteString(r.time.Local().Format(time.TimeOnly) + " ")
	}
	fmt.Fprintf(&b, "%s ", left(r.reason, reasons))
	if r.times > 1 {
		fmt.Fprintf(&b, "%dx ", r.times)
	}
	// What is left is the two ends', of which the far one needs more.
	room := columns - width(b.String()) - len(" > ")
	who, to := r.who, r.to+" "+r.proto
	if width(who)+width(to) > room {
		who = squeeze(who, max(8, room-width(to)))
		if width(who)+width(to) > room {
			to = r.to
		}
		to = squeeze(to, max(8, room-width(who)))
	}
	fmt.Fprintf(&b, "%s > %s", who, to)
	if rest := columns - width(b.String()); rest >= 20 {
		b.WriteString(cut("  "+r.meaning, rest))
	}
	return cut(b.String(), columns)
}
