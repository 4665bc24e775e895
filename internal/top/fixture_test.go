package top

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
)

// noon is when the fixture is read last; a second after the reading before.
var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

func inUTC(t *testing.T) {
	t.Helper()
	was := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = was })
}

// household is what a busy LAN sends in a second, by device: packets and bytes by fate.
var household = []struct {
	name, mac, addrs string
	policy           config.Policy
	until            time.Duration
	before           [countFates]uint64 // packets
	sent             [countFates]loader.Traffic
}{
	{"kitchen-tv", "02:00:5e:10:00:01", "192.168.50.11 2001:db8:50::11", config.PolicyDirect, 9*time.Minute + 30*time.Second,
		[countFates]uint64{1204, 881_204, 312, 4410}, [countFates]loader.Traffic{{}, {Packets: 1843, Bytes: 2_410_000}, {Packets: 1, Bytes: 90}, {}}},
	{"laptop", "02:00:5e:10:00:02", "192.168.50.12 2001:db8:50:0:a1b2:c3d4:e5f6:789a", config.PolicyTor, 0,
		[countFates]uint64{12_345_678, 0, 9120, 210}, [countFates]loader.Traffic{{Packets: 412, Bytes: 498_000}, {}, {Packets: 12, Bytes: 1400}, {Packets: 14, Bytes: 17_500}}},
	{"phone", "02:00:5e:10:00:03", "192.168.50.13", config.PolicyTor, 0,
		[countFates]uint64{45_021, 0, 77, 90_122}, [countFates]loader.Traffic{{Packets: 21, Bytes: 3100}, {}, {}, {Packets: 33, Bytes: 41_000}}},
	{"", "02:00:5e:10:00:04", "192.168.50.14", config.PolicyBlock, 0,
		[countFates]uint64{0, 0, 5, 55_100}, [countFates]loader.Traffic{{}, {}, {}, {Packets: 9, Bytes: 760}}},
	{"printer", "02:00:5e:10:00:05", "192.168.50.15", config.PolicyTor, 0,
		[countFates]uint64{3, 0, 40_211, 2}, [countFates]loader.Traffic{{}, {}, {Packets: 2, Bytes: 240}, {}}},
	{"a-very-long-name-that-somebody-gave-to-the-thermostat-upstairs", "02:00:5e:10:00:06", "192.168.50.16 fd00:5e:10:50:1234:5678:9abc:def0", config.PolicyTor, 0,
		[countFates]uint64{902, 0, 0, 18}, [countFates]loader.Traffic{{Packets: 1, Bytes: 110}, {}, {}, {}}},
	{"", "", "10.66.0.7", config.PolicyTor, 0, [countFates]uint64{5, 0, 0, 0}, [countFates]loader.Traffic{}},
}

// devicesAt are the household's, before the second or after it.
func devicesAt(after bool) []router.DeviceStatus {
	var out []router.DeviceStatus
	for _, h := range household {
		d := router.DeviceStatus{Name: h.name, MAC: h.mac, Policy: h.policy, Traffic: make(map[string]loader.Traffic)}
		for a := range strings.FieldsSeq(h.addrs) {
			d.Addrs = append(d.Addrs, netip.MustParseAddr(a))
		}
		if h.until > 0 {
			until := noon.Add(h.until)
			d.Until = &until
		}
		for i, fate := range fates {
			t := loader.Traffic{Packets: h.before[i], Bytes: 600 * h.before[i]}
			if after {
				t.Packets += h.sent[i].Packets
				t.Bytes += h.sent[i].Bytes
			}
			d.Traffic[fate] = t
		}
		out = append(out, d)
	}
	return out
}

func refusedAt(after bool) map[string]loader.Traffic {
	out := map[string]loader.Traffic{"quic": {Packets: 90_000, Bytes: 120_000_000}, "udp": {Packets: 4000, Bytes: 900_000}, "ntp": {Packets: 12, Bytes: 1080}}
	if after {
		out["quic"] = loader.Traffic{Packets: 90_047, Bytes: 120_058_500}
		out["udp"] = loader.Traffic{Packets: 4009, Bytes: 900_760}
	}
	return out
}

func fixtureStatus() *router.Status {
	return &router.Status{
		Interfaces: []router.InterfaceStatus{{Name: "eth1"}, {Name: "wlan0"}}, Ready: true,
		Tor: router.TorStatus{Alive: true, Version: "0.4.9.3", Percent: 100, Summary: "Done", Instances: []router.TorInstance{{Alive: true, Ready: true, Circuits: 14, Read: 812_000_000, Written: 96_400_000}}},
	}
}

// refusedEvent is a packet to somebody, so long before noon.
func refusedEvent(ago time.Duration, device, to, reason string, proto uint8) router.Event {
	p := router.Refused{Time: noon.Add(-ago), Interface: "eth1", Reason: reason, Meaning: "Tor carries no UDP", Protocol: proto, Src: netip.MustParseAddrPort("192.168.50.13:40000"), Dst: netip.MustParseAddrPort(to)}
	return router.Event{Time: p.Time, Kind: router.EventRefused, Device: device, Packet: &p}
}

// fixture is a model of the household.
func fixture() *model {
	m := newModel(Options{Interval: time.Second, Sort: ByAll})
	m.setReading(Reading{At: noon.Add(-time.Second), Devices: devicesAt(false), Refused: refusedAt(false)})
	m.setReading(Reading{At: noon, Devices: devicesAt(true), Refused: refusedAt(true)})
	before := fixtureStatus()
	before.Tor.Instances[0].Read -= 2_500_000
	before.Tor.Instances[0].Written -= 410_000
	m.setStatus(before, noon.Add(-5*time.Second), nil)
	m.setStatus(fixtureStatus(), noon, nil)
	for _, e := range []router.Event{
		refusedEvent(9*time.Second, "phone", "142.250.74.110:443", "quic", 17),
		refusedEvent(7*time.Second, "laptop", "[2001:db8:4860:4864:1234:5678:9abc:def0]:443", "quic", 17),
		refusedEvent(6*time.Second, "", "192.0.2.123:123", "ntp", 17),
		refusedEvent(4*time.Second, "phone", "198.51.100.20:0", "icmp", 1),
		refusedEvent(2*time.Second, "phone", "142.250.74.110:443", "quic", 17),
		refusedEvent(time.Second, "phone", "142.250.74.110:443", "quic", 17),
		refusedEvent(0, "02:00:5e:10:00:04", "203.0.113.9:80", "blocked-device", 6),
	} {
		m.setEvent(e)
	}
	return m
}

// many is a model of so many devices.
func many(n int) *model {
	m := fixture()
	m.cached = nil
	for i := range n {
		d := router.DeviceStatus{Name: fmt.Sprintf("device-%03d", i), MAC: fmt.Sprintf("02:00:5e:20:00:%02x", i), Policy: config.PolicyTor, Traffic: map[string]loader.Traffic{"tor": {Packets: uint64(i), Bytes: 100 * uint64(i)}}}
		m.after.Devices = append(m.after.Devices, d)
	}
	return m
}
