package top

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
)

// Print writes what there is to see each interval, until ctx ends; once, if that is asked for:
// as text without escape codes, for people, or as an object a line.
func Print(ctx context.Context, s Source, o Options, w io.Writer, once, asJSON bool) error {
	m := newModel(o)
	r, err := read(s)
	if err != nil {
		return err
	}
	m.setReading(r)
	status, err := s.Status(ctx)
	m.setStatus(status, time.Now(), err)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := newFeed(ctx, s)
	f.run(f.events)
	f.run(func() {
		for f.wait(min(statusAgain, o.Interval)) {
			f.status()
		}
	})
	tick := time.NewTicker(m.interval)
	defer tick.Stop()
	for told := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case n := <-f.news:
			n(m)
		case <-tick.C:
			if r, err = read(s); err != nil {
				return err
			}
			m.setReading(r)
			if told, err = told+1, m.print(w, told, asJSON); err != nil || once {
				return err
			}
			m.refusals = nil
		}
	}
}

// print writes one frame, of several with an empty line between them.
func (m *model) print(w io.Writer, before int, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(w).Encode(m.object()); err != nil {
			return fmt.Errorf("print JSON: %w", err)
		}
		return nil
	}
	frame := text(m.frame(m.columns, endless))
	if before > 0 {
		frame = "\n" + frame
	}
	_, err := io.WriteString(w, frame)
	return err
}

// objectSchema numbers the form of an object.
const objectSchema = 1

// object is a frame in JSON.
type object struct {
	Schema  int                        `json:"schema"`
	Time    time.Time                  `json:"time"`
	Seconds float64                    `json:"seconds"` // that rates are of
	Ready   bool                       `json:"ready"`
	Tor     *router.TorStatus          `json:"tor"` // null: its status cannot be read
	Stopped uint64                     `json:"stopped"`
	Traffic map[string]loader.Traffic  `json:"traffic"` // of all
	Rates   map[string]Rate            `json:"rates"`   // likewise, a second
	Devices []deviceObject             `json:"devices"` // sorted
	Refused map[string]refusedByReason `json:"refused"`
}

// deviceObject is a row in JSON; this machine's has neither an address nor a hardware address.
type deviceObject struct {
	Name    string                    `json:"name"`
	MAC     string                    `json:"mac"`
	Addrs   []netip.Addr              `json:"addresses"`
	Policy  config.Policy             `json:"policy"`
	Until   *time.Time                `json:"until"`
	Traffic map[string]loader.Traffic `json:"traffic"`
	Rates   map[string]Rate           `json:"rates"`
}

type refusedByReason struct {
	Packets uint64 `json:"packets"` // since attach
	Rate    Rate   `json:"rate"`
}

func (m *model) object() object {
	sum := sumOf(m.all())
	o := object{
		Schema: objectSchema, Time: m.after.At, Seconds: m.after.At.Sub(m.before.At).Seconds(),
		Devices: []deviceObject{}, Refused: make(map[string]refusedByReason),
	}
	if m.status != nil {
		o.Ready, o.Tor, o.Stopped = m.status.Ready, &m.status.Tor, m.status.Stopped
	}
	o.Traffic, o.Rates = sum.byFate()
	for _, r := range m.rows() {
		d := deviceObject{Name: r.Name, MAC: r.MAC, Addrs: append([]netip.Addr{}, r.Addrs...), Policy: r.Policy, Until: r.Until}
		d.Traffic, d.Rates = r.byFate()
		o.Devices = append(o.Devices, d)
	}
	for _, r := range refusedRates(m.before, m.after) {
		o.Refused[r.reason] = refusedByReason{r.packets, r.rate}
	}
	return o
}

// byFate is what a row has, by the names of its columns.
func (r Row) byFate() (map[string]loader.Traffic, map[string]Rate) {
	traffic, rates := make(map[string]loader.Traffic), make(map[string]Rate)
	for i, fate := range fates {
		traffic[fate], rates[fate] = r.Sum[i], r.Rate[i]
	}
	return traffic, rates
}
