package top

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
)

// Source is what is shown, and what changes it; a router.Router is one.
type Source interface {
	Devices() ([]router.DeviceStatus, error)
	RefusedByReason() (map[string]loader.Traffic, error)
	Status(ctx context.Context) (*router.Status, error)
	Events(ctx context.Context, f router.EventFilter, told func(router.Event)) error
	WhoIs(who []string) ([]config.Entry, error)
	Exclude(ctx context.Context, remove bool, rules config.Rules, o router.ExcludeOptions) ([]config.Change, []string, error)
	BackToTor(ctx context.Context, who []string, o router.ExcludeOptions) ([]config.Change, []string, error)
}

// fates are what may become of a packet, in the order of the columns.
var fates = fateNames()

// countFates is how many there are.
const countFates = int(abi.FateRefused) + 1

func fateNames() (names [countFates]string) {
	for fate, name := range abi.FateNames {
		names[fate] = name
	}
	return names
}

// Reading is what has been sent until some time.
type Reading struct {
	At      time.Time // with the monotonic clock, by which rates are told
	Devices []router.DeviceStatus
	Refused map[string]loader.Traffic // by reason
}

// read makes a reading.
func read(s Source) (Reading, error) {
	devices, err := s.Devices()
	if err != nil {
		return Reading{}, err
	}
	refused, err := s.RefusedByReason()
	return Reading{At: time.Now(), Devices: devices, Refused: refused}, err
}

// own is what this machine itself had sent when its status was read.
type own struct {
	at      time.Time
	traffic map[string]loader.Traffic
}

// Rate is how much there is in a second.
type Rate struct {
	Packets float64 `json:"packets"`
	Bits    float64 `json:"bits"`
}

func (r Rate) plus(o Rate) Rate { return Rate{r.Packets + o.Packets, r.Bits + o.Bits} }

// rateOf is the rate between two readings. What counts less than before has begun anew.
func rateOf(before, after loader.Traffic, took time.Duration) Rate {
	if took <= 0 {
		return Rate{}
	}
	if after.Packets < before.Packets || after.Bytes < before.Bytes {
		before = loader.Traffic{}
	}
	return Rate{
		Packets: float64(after.Packets-before.Packets) / took.Seconds(),
		Bits:    8 * float64(after.Bytes-before.Bytes) / took.Seconds(),
	}
}

// Row is a device, or this machine, with what it has sent since attach and what it sends.
type Row struct {
	router.DeviceStatus
	ID   string // which tells it from others, and names it to commands; "" for this machine
	Sum  [countFates]loader.Traffic
	Rate [countFates]Rate
}

// thisMachine is what the row of what this machine itself sends is called.
const thisMachine = "this machine"

// idOf is its hardware address, or its address where frames have none.
func idOf(d router.DeviceStatus) string {
	if d.MAC == "" && len(d.Addrs) > 0 {
		return d.Addrs[0].String()
	}
	return d.MAC
}

// label is what a row is called.
func (r Row) label() string {
	if r.Name != "" {
		return r.Name
	}
	return r.ID
}

// total is how much all of it is.
func (r Row) total() (out Rate) {
	for _, rate := range r.Rate {
		out = out.plus(rate)
	}
	return out
}

// setTraffic fills in the columns.
func (r *Row) setTraffic(before, after map[string]loader.Traffic, took time.Duration) {
	for i, fate := range fates {
		r.Sum[i] = after[fate]
		r.Rate[i] = rateOf(before[fate], after[fate], took)
	}
}

// rowsOf makes rows of the later of two readings. What a device has sent that was not there
// before it has sent since; with no reading before there are no rates.
func rowsOf(before, after Reading) []Row {
	took := after.At.Sub(before.At)
	if before.At.IsZero() {
		took = 0
	}
	known := make(map[string]map[string]loader.Traffic)
	for _, d := range before.Devices {
		known[idOf(d)] = d.Traffic
	}
	rows := make([]Row, 0, len(after.Devices))
	for _, d := range after.Devices {
		row := Row{DeviceStatus: d, ID: idOf(d)}
		row.setTraffic(known[row.ID], d.Traffic, took)
		rows = append(rows, row)
	}
	return rows
}

// ownRow is what this machine itself sends; false where nobody counts that.
func ownRow(before, after own) (Row, bool) {
	if len(after.traffic) == 0 {
		return Row{}, false
	}
	row := Row{DeviceStatus: router.DeviceStatus{Name: thisMachine, Policy: config.PolicyTor}}
	took := after.at.Sub(before.at)
	if before.at.IsZero() {
		took = 0
	}
	row.setTraffic(before.traffic, after.traffic, took)
	return row, true
}

// relayedBetween is what all tors have read from relays, and written to them, between two statuses.
func relayedBetween(before, after *router.Status, took time.Duration) (rates [2]Rate) {
	if before == nil {
		return rates
	}
	for i, t := range after.Tor.Instances {
		if i >= len(before.Tor.Instances) {
			break
		}
		was := before.Tor.Instances[i]
		rates[0] = rates[0].plus(rateOf(loader.Traffic{Bytes: was.Read}, loader.Traffic{Bytes: t.Read}, took))
		rates[1] = rates[1].plus(rateOf(loader.Traffic{Bytes: was.Written}, loader.Traffic{Bytes: t.Written}, took))
	}
	return rates
}

// sumOf adds rows up.
func sumOf(rows []Row) (sum Row) {
	for _, r := range rows {
		for i := range fates {
			sum.Sum[i].Packets += r.Sum[i].Packets
			sum.Sum[i].Bytes += r.Sum[i].Bytes
			sum.Rate[i] = sum.Rate[i].plus(r.Rate[i])
		}
	}
	return sum
}

// refusedRate is how many packets are refused for a reason, a second.
type refusedRate struct {
	reason  string
	packets uint64 // since attach
	rate    Rate
}

// refusedRates are those of two readings, the fastest first.
func refusedRates(before, after Reading) []refusedRate {
	took := after.At.Sub(before.At)
	if before.At.IsZero() {
		took = 0
	}
	var out []refusedRate
	for reason, t := range after.Refused {
		out = append(out, refusedRate{reason, t.Packets, rateOf(before.Refused[reason], t, took)})
	}
	slices.SortFunc(out, func(a, b refusedRate) int {
		return cmp.Or(cmp.Compare(b.rate.Packets, a.rate.Packets), cmp.Compare(b.packets, a.packets), cmp.Compare(a.reason, b.reason))
	})
	return out
}
