package top

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/torbpf/torbpf/internal/config"
)

// key is what was typed: a character, or the name of a key that has none.
type key string

// The keys without a character.
const (
	keyUp        key = "up"
	keyDown      key = "down"
	keyPageUp    key = "page up"
	keyPageDown  key = "page down"
	keyHome      key = "home"
	keyEnd       key = "end"
	keyEnter     key = "enter"
	keyEscape    key = "escape"
	keyBackspace key = "backspace"
	keyInterrupt key = "^C"
	keySuspend   key = "^Z"
	keyRedraw    key = "^L"
)

// character is that of a key that has one.
func (k key) character() (rune, bool) {
	r, size := utf8.DecodeRuneInString(string(k))
	return r, size == len(k) && size > 0 && unicode.IsPrint(r)
}

// effect is what a key wants done beyond the model.
type effect struct {
	quit, suspend, redraw bool
	change                *Change
}

// helpLines explain the keys.
var helpLines = []string{
	"up, down, PgUp, PgDn    choose a device",
	"a                       let it go direct, past Tor, for ten minutes",
	"t                       put it back on Tor",
	"b                       block it",
	"N T D L R A             sort by name, a column, or all; once more: reversed",
	"p                       sort by packets instead of bits (narrow: show them)",
	"c                       packets since attach instead of rates",
	"/                       show only what has a text in its name, address or reason",
	"[ ]                     older and newer refusals",
	"^L ^Z q                 draw anew, suspend, quit",
	"In narrow windows + is a device that is direct, - one that is blocked.",
}

// hints are the short help, the most wanted first.
var hints = []string{"a allow " + short(allowedFor), "t Tor", "b block", "/ filter", "NTDLRA sort", "p pkt/bit", "c counts", "h help", "q quit"}

// sortKeys are those that sort.
var sortKeys = map[key]Sort{"A": ByAll, "N": ByName, "T": ByFate, "D": ByFate + 1, "L": ByFate + 2, "R": ByFate + 3}

// pageOf is how far a page goes.
const pageOf = 10

// press does what a key means now.
func (m *model) press(k key) effect {
	switch k {
	case keyInterrupt:
		return effect{quit: true}
	case keySuspend:
		return effect{suspend: true}
	case keyRedraw:
		return effect{redraw: true}
	}
	m.said = ""
	switch {
	case m.asked != nil:
		return m.answer(k)
	case m.typing:
		m.edit(k)
		return effect{}
	case m.helps:
		m.helps = false
		return effect{}
	}
	return m.command(k)
}

// answer takes y for yes and all else for no.
func (m *model) answer(k key) effect {
	asked := m.asked
	m.asked = nil
	if k != "y" && k != "Y" {
		m.say("nothing was changed", false)
		return effect{}
	}
	m.busy = true
	return effect{change: asked}
}

// edit changes the filter.
func (m *model) edit(k key) {
	switch k {
	case keyEnter:
		m.typing = false
	case keyEscape:
		m.typing, m.filter = false, ""
	case keyBackspace:
		if _, size := utf8.DecodeLastRuneInString(m.filter); size > 0 {
			m.filter = m.filter[:len(m.filter)-size]
		}
	default:
		if r, ok := k.character(); ok && len(m.filter) < 64 {
			m.filter += string(r)
		}
	}
}

// command does what a key means while nothing is asked.
func (m *model) command(k key) effect {
	if by, ok := sortKeys[k]; ok {
		m.order.reverse = m.order.by == by && !m.order.reverse
		m.order.by = by
		return effect{}
	}
	if by, ok := moves[k]; ok {
		m.move(by)
		return effect{}
	}
	switch k {
	case "q":
		return effect{quit: true}
	case "a":
		m.ask(config.PolicyDirect)
	case "t":
		m.ask(config.PolicyTor)
	case "b":
		m.ask(config.PolicyBlock)
	case "p":
		m.order.packets = !m.order.packets
	case "c":
		m.counts = !m.counts
	case "/":
		m.typing = true
	case "h", "?":
		m.helps = true
	case "[":
		m.back = max(0, min(m.back+1, len(m.refusals)-1))
	case "]":
		m.back = max(0, m.back-1)
	case keyEscape:
		m.filter, m.chosen, m.back = "", false, 0
	}
	return effect{}
}

// moves are the keys that select another row, and by how much.
var moves = map[key]int{
	keyUp: -1, "k": -1, keyDown: 1, "j": 1, keyPageUp: -pageOf, keyPageDown: pageOf, keyHome: -1 << 20, keyEnd: 1 << 20,
}

// hint is as much of the short help as fits.
func hint(columns int) string {
	text := hints[0]
	last := strings.Join(hints[len(hints)-2:], "  ")
	for _, h := range hints[1 : len(hints)-2] {
		if width(text)+width(h)+width(last)+4 <= columns {
			text += "  " + h
		}
	}
	return text + "  " + last
}
