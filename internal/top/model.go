package top

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// Options say what to show, and how often.
type Options struct {
	Interval time.Duration
	Sort     Sort
	Filter   string
	Columns  int // of the lines where there is no screen
}

// model is all that is shown, and how.
type model struct {
	interval time.Duration
	order    order
	columns  int    // where there is no screen
	counts   bool   // of packets since attach, instead of rates
	filter   string // of devices and refusals
	selected string // the ID of a row
	chosen   bool   // whether one is selected
	helps    bool

	before, after       Reading
	cached              []Row // of the readings, see all
	ownBefore, ownAfter own
	relayed             [2]Rate // that all tors read from relays and write to them; bits alone
	status              *router.Status
	statusErr           error
	refusals            []refusal
	back                int // how many of the newest ones are below what is shown
	deaf                error

	typing bool    // of the filter
	asked  *Change // and not answered yet
	busy   bool    // one is being made
	said   string  // what came of the last
	bad    bool    // it failed
}

func newModel(o Options) *model {
	return &model{interval: o.Interval, order: order{by: o.Sort}, columns: cmp.Or(o.Columns, plainColumns), filter: o.Filter}
}

// setReading takes in what was read.
func (m *model) setReading(r Reading) { m.before, m.after, m.cached = m.after, r, nil }

// setStatus takes in a status, or why there is none.
func (m *model) setStatus(s *router.Status, at time.Time, err error) {
	if m.statusErr = err; err != nil {
		return
	}
	m.relayed = relayedBetween(m.status, s, at.Sub(m.ownAfter.at))
	m.status, m.cached = s, nil
	m.ownBefore, m.ownAfter = m.ownAfter, own{at, s.OwnTraffic}
}

// setEvent takes in a refusal. What is looked at stays where it is.
func (m *model) setEvent(e router.Event) {
	r, ok := refusalOf(e)
	if !ok {
		return
	}
	m.deaf = nil
	grown := len(m.refusals)
	m.refusals = appendRefusal(m.refusals, r)
	if m.back > 0 {
		m.back = min(m.back+len(m.refusals)-grown, len(m.refusals)-1)
	}
}

// all are the rows that there are.
func (m *model) all() []Row {
	if m.cached == nil {
		m.cached = rowsOf(m.before, m.after)
		if row, ok := ownRow(m.ownBefore, m.ownAfter); ok {
			m.cached = append(m.cached, row)
		}
	}
	return m.cached
}

// rows are those that are shown, in order.
func (m *model) rows() []Row { return m.order.sorted(filtered(m.all(), m.filter)) }

// place is where the selected row is among some; -1: nowhere.
func (m *model) place(rows []Row) int {
	if !m.chosen {
		return -1
	}
	return slices.IndexFunc(rows, func(r Row) bool { return r.ID == m.selected })
}

// move selects another row, so many further down.
func (m *model) move(by int) {
	rows := m.rows()
	if len(rows) == 0 {
		return
	}
	i := m.place(rows)
	switch {
	case i < 0 && by > 0:
		i = 0
	case i < 0:
		i = len(rows) - 1
	default:
		i = min(max(i+by, 0), len(rows)-1)
	}
	m.selected, m.chosen = rows[i].ID, true
}

// Change is what somebody wants a device to be under.
type Change struct {
	Who    string // as commands name it
	Label  string // as people do
	Policy config.Policy
}

// allowedFor is how long a device goes direct that is allowed to.
const allowedFor = 10 * time.Minute

// questions ask whether a change is meant, at length and in few words.
var questions = map[config.Policy][2]string{
	config.PolicyDirect: {"let %s go direct, past Tor, for " + short(allowedFor) + "? y/n", "%s past Tor for " + short(allowedFor) + "? y/n"},
	config.PolicyBlock:  {"block %s, until t takes it back? y/n", "block %s? y/n"},
	config.PolicyTor:    {"put %s back on Tor? y/n", "%s back on Tor? y/n"},
}

// question asks it in some columns.
func (c Change) question(columns int) string {
	format := questions[c.Policy][0]
	if columns < withUnder {
		format = questions[c.Policy][1]
	}
	return fmt.Sprintf(format, squeeze(clean(c.Label), max(8, columns-width(format)+len("%s"))))
}

// ask begins a change of the selected device.
func (m *model) ask(policy config.Policy) {
	rows := m.rows()
	i := m.place(rows)
	switch {
	case m.busy:
	case i < 0:
		m.say("choose a device first, by the arrow keys", true)
	case rows[i].ID == "":
		m.say("this machine is no device: torbpf exclude add --client says what of it goes direct", true)
	default:
		m.asked = &Change{Who: rows[i].ID, Label: rows[i].label(), Policy: policy}
	}
}

func (m *model) say(text string, bad bool) { m.said, m.bad = text, bad }

// setChanged takes in what came of a change.
func (m *model) setChanged(text string, err error) {
	m.busy = false
	if err != nil {
		m.say("not changed: "+err.Error(), true)
		return
	}
	m.say(text, false)
}
