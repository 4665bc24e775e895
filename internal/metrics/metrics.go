// Package metrics tells Prometheus what torbpf does. Names and units follow its conventions;
// verdicts, reasons and policies have the names that they have everywhere.
//
// How many series there can be is bounded: by interface, verdict and reason of what has
// occurred, and by device for the first maxDevices of them.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/torbpf/torbpf/internal/router"
)

// Source is what there is to tell of; a router.Router is one.
type Source interface {
	Status(context.Context) (*router.Status, error)
	Devices() ([]router.DeviceStatus, error)
}

// maxDevices bounds the devices with series of their own; those that come later are told of
// together, as "other".
const maxDevices = 128

// patience is how long one scrape may take; a tor that hangs takes some of it.
const patience = 8 * time.Second

// shared is how long what was read is told to whoever asks.
const shared = time.Second

// The metrics. Those of packets count what the programs in the kernel count.
var (
	attached = desc("attached", "Whether anything is on Tor, or blocked until it can be.")
	lan      = desc("interface_attached", "Whether an interface has its program: a LAN's classifier or an uplink's guard.", "interface", "role")
	packets  = desc("packets_total", "Packets by what was decided about them, and why (docs/REASONS.md).", "interface", "verdict", "reason")
	bytes    = desc("bytes_total", "Bytes of those packets, from the link header on.", "interface", "verdict", "reason")
	dropped  = desc("guard_dropped_packets_total", "Packets that a guard in nftables dropped.", "guard")
	stopped  = desc("leak_monitor_stopped_packets", "Packets that only the last guards stopped since the last attach: anything but 0 is an alarm.")
	problems = desc("problems", "Parts that are missing or changed, as status lists them.")
	warnings = desc("warnings", "What is as it was asked for, and should be known, as status lists it.")
	ready    = desc("ready", "Whether Tor is ready and clients are served.")
	sentryUp = desc("sentry_up", "Whether the process is alive that opens and closes the gate and answers DNS over TCP.")
	torUp    = desc("tor_up", "Whether tor answers its control connection.")
	torBoot  = desc("tor_bootstrap_ratio", "How far tor's bootstrap is, from 0 to 1.")
	torInfo  = desc("tor_info", "The tor that is used.", "version", "mode")
	torReady = desc("tor_instance_ready", "Whether one of several tors is bootstrapped and serves its devices.", "instance")
	torUsers = desc("tor_instance_devices", "Devices that have sent something by Tor, by the tor that they use now.", "instance")
	circuits = desc("tor_circuits", "Circuits that a tor has built and can use.", "instance")
	traffic  = desc("tor_traffic_bytes_total", "Bytes that a tor has read from relays, or written to them, since it was started.", "instance", "direction")
	fast     = desc("fastpath_active", "Whether excluded flows may skip the kernel's forwarding now.")
	fastSent = desc("fastpath_packets_total", "Packets that have gone by the programs of the fast path; a flowtable counts none.", "direction")
	ownSent  = desc("own_packets_total", "Packets that this machine itself has sent while it is on Tor, by what became of them.", "fate")
	ownBytes = desc("own_bytes_total", "Bytes that this machine itself has sent while it is on Tor, by what became of them.", "fate")
	rules    = desc("rules", "Rules in force.", "kind", "policy")
	ends     = desc("rule_next_end_timestamp_seconds", "When the next rule ends, in seconds since 1970; absent where none does.")
	listed   = desc("list_entries", "Prefixes and addresses of a list of destinations, as it was read.", "path")

	devices       = desc("devices", "Devices that have sent anything, or are neighbours of a LAN, or have a name.")
	devicePackets = desc("device_packets_total", "Packets that a device has sent, by what became of them.", "device", "fate")
	deviceBytes   = desc("device_bytes_total", "Bytes that a device has sent, by what became of them.", "device", "fate")
)

// all are the metrics in the order in which they are described.
var all = []*prometheus.Desc{
	attached, lan, packets, bytes, dropped, stopped, problems, warnings, ready, sentryUp,
	torUp, torBoot, torInfo, torReady, torUsers, circuits, traffic, fast, fastSent, ownSent, ownBytes, rules, ends, listed, devices, devicePackets, deviceBytes,
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("torbpf_"+name, help, labels, nil)
}

// Collector reads a Source at each scrape.
type Collector struct {
	source Source
	shared time.Duration // how long what was read is told to whoever asks

	reading sync.Mutex // one at a time
	last    *reading

	mu    sync.Mutex      // scrapes may overlap
	known map[string]bool // devices with series of their own, for as long as this runs
}

// NewCollector returns a collector for a registry.
func NewCollector(s Source) *Collector {
	return &Collector{source: s, shared: shared, known: make(map[string]bool)}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range all {
		out <- d
	}
}

// reading is what was read of a Source at once.
type reading struct {
	at      time.Time
	status  *router.Status
	devices []router.DeviceStatus
	broken  *prometheus.Desc // what could not be read
	err     error            // and why
}

// read reads the Source, or shares what somebody else has just read: who asks is a stranger, and
// a status opens sockets and asks each tor.
func (c *Collector) read() (got *reading) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.last != nil && time.Since(c.last.at) < c.shared {
		return c.last
	}
	got = &reading{broken: attached}
	defer func() {
		got.at = time.Now()
		c.last = got
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if got.status, got.err = c.source.Status(ctx); got.err != nil {
		got.err = fmt.Errorf("read the status: %w", got.err)
		return got
	}
	got.broken = devices
	if got.devices, got.err = c.source.Devices(); got.err != nil {
		got.err = fmt.Errorf("read the devices: %w", got.err)
	}
	return got
}

// Collect implements prometheus.Collector. What cannot be read makes the scrape fail: a
// gap in a graph says so, and a 0 would not.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	got := c.read()
	if errors.Is(got.err, router.ErrNotAttached) && got.broken == attached {
		gauge(out, attached, 0)
		return
	}
	if got.err != nil {
		out <- prometheus.NewInvalidMetric(got.broken, got.err)
		return
	}
	status, found := got.status, got.devices
	gauge(out, attached, 1)
	collectState(out, status)
	collectPackets(out, status)
	collectRules(out, status)
	c.collectDevices(out, found)
}

func collectState(out chan<- prometheus.Metric, s *router.Status) {
	for role, interfaces := range map[string][]router.InterfaceStatus{"lan": s.Interfaces, "uplink": s.Uplinks} {
		for _, i := range interfaces {
			gauge(out, lan, one(i.AttachedBy != ""), i.Name, role)
		}
	}
	gauge(out, stopped, float64(s.Stopped))
	gauge(out, problems, float64(len(s.Problems)))
	gauge(out, warnings, float64(len(s.Warnings)))
	gauge(out, ready, one(s.Ready))
	gauge(out, sentryUp, one(s.Sentry))
	gauge(out, torUp, one(s.Tor.Alive))
	gauge(out, torBoot, float64(s.Tor.Percent)/100)
	gauge(out, torInfo, 1, s.Tor.Version, string(s.Tor.Mode))
	for _, t := range s.Tor.Instances {
		gauge(out, torReady, one(t.Ready), strconv.Itoa(t.Instance))
		gauge(out, torUsers, float64(t.Devices), strconv.Itoa(t.Instance))
		if t.Alive { // or a counter would begin anew without its tor having done so
			gauge(out, circuits, float64(t.Circuits), strconv.Itoa(t.Instance))
			counter(out, traffic, t.Read, strconv.Itoa(t.Instance), "read")
			counter(out, traffic, t.Written, strconv.Itoa(t.Instance), "written")
		}
	}
}

func collectPackets(out chan<- prometheus.Metric, s *router.Status) {
	for _, k := range s.Counters {
		counter(out, packets, k.Packets, k.Interface, k.Verdict, k.Reason)
		counter(out, bytes, k.Bytes, k.Interface, k.Verdict, k.Reason)
	}
	for _, g := range s.Guards {
		counter(out, dropped, g.Packets, g.Guard)
	}
	for fate, t := range s.OwnTraffic {
		counter(out, ownSent, t.Packets, fate)
		counter(out, ownBytes, t.Bytes, fate)
	}
	gauge(out, fast, one(s.Fast.Active))
	counter(out, fastSent, s.Fast.Out, "out")
	counter(out, fastSent, s.Fast.In, "in")
}

func collectRules(out chan<- prometheus.Metric, s *router.Status) {
	count := make(map[[2]string]int)
	var next time.Time
	for _, r := range s.Rules {
		count[[2]string{string(r.Kind), string(r.Policy)}]++
		if !r.Until.IsZero() && (next.IsZero() || r.Until.Before(next)) {
			next = r.Until
		}
	}
	for of, n := range count {
		gauge(out, rules, float64(n), of[0], of[1])
	}
	if !next.IsZero() {
		gauge(out, ends, float64(next.Unix()))
	}
	for _, l := range s.Lists {
		gauge(out, listed, float64(l.Entries), l.Path)
	}
}

func (c *Collector) collectDevices(out chan<- prometheus.Metric, found []router.DeviceStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gauge(out, devices, float64(len(found)))
	type amount struct{ packets, bytes uint64 }
	sums := make(map[[2]string]amount)
	for _, d := range found {
		label := c.label(d)
		for fate, t := range d.Traffic {
			sum := sums[[2]string{label, fate}]
			sums[[2]string{label, fate}] = amount{sum.packets + t.Packets, sum.bytes + t.Bytes}
		}
	}
	for of, sum := range sums {
		counter(out, devicePackets, sum.packets, of[0], of[1])
		counter(out, deviceBytes, sum.bytes, of[0], of[1])
	}
}

// label is what a device is called: its hardware address, which does not change when it is
// given a name, or its address where frames have none.
func (c *Collector) label(d router.DeviceStatus) string {
	label := d.MAC
	if label == "" && len(d.Addrs) > 0 {
		label = d.Addrs[0].String()
	}
	if !c.known[label] && len(c.known) >= maxDevices {
		return "other"
	}
	c.known[label] = true
	return label
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, value uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
