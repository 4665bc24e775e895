package sentry

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
)

func newSlotsMap(t *testing.T) *ebpf.Map { return newMap(t, abi.DatapathMapDomainSlots) }

// letOutOf are the addresses that the slots hold for a device, with the time left.
func letOutOf(t *testing.T, m *ebpf.Map, device abi.DatapathDeviceKey) map[netip.Addr]time.Duration {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	out := make(map[netip.Addr]time.Duration)
	for i := range abi.DomainSlots {
		var slot abi.DatapathDomainSlot
		must(t, m.Lookup(i, &slot))
		if slot.UntilNs > 0 && slot.Device == device {
			out[netip.AddrFrom16(slot.Addr).Unmap()] = time.Duration(slot.UntilNs) - time.Duration(now.Nano())
		}
	}
	return out
}

func a(name string, ttl uint32, addr string) dns.RR {
	return &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.ParseIP(addr)}
}

// TestAnswersLetOutWithinBounds, whatever they say.
func TestAnswersLetOutWithinBounds(t *testing.T) {
	device := abi.DatapathDeviceKey{Addr: netip.MustParseAddr("192.168.50.11").As16()}
	var many []dns.RR
	for i := range 3000 {
		many = append(many, a("bank.example.", 60, fmt.Sprintf("51.%d.%d.1", i/250, i%250)))
	}
	alias := &dns.CNAME{Hdr: dns.RR_Header{Name: "bank.example.", Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 20}, Target: "cdn.example."}
	for _, c := range []struct {
		name      string
		records   []dns.RR
		addresses int
		left      time.Duration
	}{
		{"one", []dns.RR{a("bank.example.", 60, "51.0.0.1")}, 1, time.Minute},
		{"an alias that holds shorter", []dns.RR{alias, a("cdn.example.", 60, "51.0.0.1")}, 1, 20 * time.Second},
		{"no time at all", []dns.RR{a("bank.example.", 0, "51.0.0.1")}, 1, domainTTLMin},
		{"for ever", []dns.RR{a("bank.example.", 1<<31, "51.0.0.1")}, 1, domainTTLMax},
		{"thousands", many, domainAddresses, time.Minute},
		{"none", nil, 0, 0},
	} {
		m := newSlotsMap(t)
		slots, err := OpenSlots(m.FD())
		must(t, err)
		d := &domains{patterns: []Domain{{Name: "bank.example"}}, slots: slots}
		d.letOut(&dns.Msg{Answer: d.public(c.records)}, "bank.example", device)
		out := letOutOf(t, m, device)
		if len(out) != c.addresses {
			t.Errorf("%s: let out are %v", c.name, out)
		}
		for addr, left := range out {
			if left > c.left || left < c.left-5*time.Second {
				t.Errorf("%s: %v for %v, want %v", c.name, addr, left, c.left)
			}
		}
		must(t, slots.Close())
	}
}

// TestNoAnswerLeadsInside: a public name does not stand for what no public site has.
func TestNoAnswerLeadsInside(t *testing.T) {
	d := &domains{onions: []netip.Prefix{netip.MustParsePrefix("172.24.0.0/13")}, lans: []netip.Prefix{netip.MustParsePrefix("2a0d:50::/64")}}
	for addr, public := range map[string]bool{
		"51.0.0.1": true, "2a0e:20::80": true, "192.168.50.12": false, "10.0.0.1": false, "127.0.0.1": false, "169.254.1.1": false, "0.0.0.0": false,
		"224.0.0.1": false, "100.64.0.1": false, "198.18.0.1": false, "255.255.255.255": false, "172.24.0.9": false, "::1": false, "fe80::1": false,
		"fd00::1": false, "ff02::1": false, "2a0d:50::11": false, "2001:db8::1": false,
		"64:ff9b::192.168.50.12": false, "64:ff9b::51.0.0.1": true, "2002:c0a8:320c::1": false, "2002:3300:1::1": true,
	} {
		if got := d.isPublic(netip.MustParseAddr(addr)); got != public {
			t.Errorf("%s: public is %t", addr, got)
		}
	}
}

func TestTheLongestExcludedNameCounts(t *testing.T) {
	now, err := kernel.BootTime()
	must(t, err)
	d := &domains{patterns: []Domain{
		{Name: "*.example"}, {Name: "bank.example"}, {Name: "*.bank.example", Ends: now + time.Hour}, {Name: "*.over.bank.example", Ends: now},
		{Name: "past.test", Ends: 1},
	}}
	for name, want := range map[string]string{
		"bank.example.": "bank.example", "BANK.Example": "bank.example", "www.bank.example.": "*.bank.example", "shop.example.": "*.example",
		"example.": "", "notbank.example2.": "", "xbank.example.": "*.example",
		"www.over.bank.example.": "*.bank.example", "past.test.": "",
	} {
		if got := d.match(name); got != want {
			t.Errorf("%s is matched by %q, want %q", name, got, want)
		}
	}
}

// TestAnEndedNameIsNotAskedFor, though nobody has started another sentry since.
func TestAnEndedNameIsNotAskedFor(t *testing.T) {
	d := &domains{patterns: []Domain{{Name: "bank.example", Ends: 1}}, resolver: netip.MustParseAddrPort("127.0.0.1:1"), timeout: time.Second}
	n := names{chosen: func(name string) bool { return d.match(name) != "" }}
	if who, _ := n.who("bank.example."); who != tor {
		t.Errorf("answered by %v, want tor", who)
	}
	_, err := d.ask(t.Context(), dns.Question{Name: "bank.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, nobodysDevice)
	if err == nil || !strings.Contains(err.Error(), "has just ended") {
		t.Errorf("asked all the same: %v", err)
	}
}

// TestSlotsMakeRoom: more answers than there are places for take the place of those
// that end first.
func TestSlotsMakeRoom(t *testing.T) {
	m := newSlotsMap(t)
	slots, err := OpenSlots(m.FD())
	must(t, err)
	defer func() { must(t, slots.Close()) }()
	device := abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: [6]byte{2, 0, 0, 0, 0, 1}}}
	last := netip.Addr{}
	for i := range 3 * abi.DomainSlots {
		last = netip.AddrFrom4([4]byte{51, byte(i >> 16), byte(i >> 8), byte(i)})
		slots.Put(device, last, 7, time.Duration(i+1)*time.Hour)
	}
	slots.Put(device, last, 8, time.Hour<<8)
	place, found := abi.DomainPlace(device, last.As16()), 0
	for i := range abi.DomainProbes {
		var slot abi.DatapathDomainSlot
		must(t, m.Lookup((place+i)%abi.DomainSlots, &slot))
		if slot.Addr == last.As16() {
			if found++; slot.Domain != 8 || slot.UntilNs != uint64(time.Hour<<8) {
				t.Errorf("the last answer is in its slot as %+v", slot)
			}
		}
	}
	if found != 1 {
		t.Errorf("the last answer is in %d slots", found)
	}
}

func TestOpenSlotsRefusesWhatIsNotTheirMap(t *testing.T) {
	if _, err := OpenSlots(newGates(t).FD()); err == nil || !strings.Contains(err.Error(), "it is not their map") {
		t.Errorf("of the gates: %v", err)
	}
}
