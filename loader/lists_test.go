package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// listed is the lab's plan with lists in the place of its exclusion.
func (l *lab) listed() *plan.Plan {
	p := l.plan()
	p.Rules, p.Lists = nil, []plan.List{{Path: "a"}}
	return p
}

// newLists fills maps that are closed at the end of the test.
func newLists(t *testing.T, key string, groups ...ListGroup) *Lists {
	t.Helper()
	l, err := NewLists(key, groups)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return l
}

func forEver(texts ...string) ListGroup { return ListGroup{Prefixes: sortedPrefixes(texts...)} }

func sortedPrefixes(texts ...string) []netip.Prefix {
	list := prefixes(texts...)
	slices.SortFunc(list, config.ComparePrefixes)
	return list
}

// TestListsAreHandedOn: a generation takes over the maps of the one before, which hold
// what they are asked for, or gets others.
func TestListsAreHandedOn(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	if none, err := d.OpenLists(); none != nil || err != nil {
		t.Errorf("before anything is attached there are lists: %v, %v", none, err)
	}
	d.UseLists(newLists(t, "one", forEver("62.10.9.0/24", "2001:db8::/32")))
	apply(t, d, l.listed())
	first := mapIDs(t, d)
	held, err := d.OpenLists()
	must(t, err)
	defer held.Close()
	expectHolds(t, held, "one", true)
	expectHolds(t, held, "other", false)
	s, server := l.newSender(t), l.newCapture(t)
	server.arrives(t, s, directUDP)

	next := Open(Options{Root: l.root, Namespace: "lab"}) // as another process
	next.UseLists(held)
	p := l.listed()
	p.Rules = config.DirectPrefixes(config.KindDestination, prefixes("62.10.10.0/24")...)
	apply(t, next, p)
	second := mapIDs(t, d)
	for _, name := range []string{"list4_prefixes", "list6_prefixes", "list4_nodes", "list6_nodes", "list4_ends", "list6_ends"} {
		if first[name] != second[name] || first["dst4_prefixes"] == second["dst4_prefixes"] {
			t.Errorf("map %s was %d and is %d", name, first[name], second[name])
		}
	}
	server.arrives(t, s, directUDP)

	next.UseLists(nil)
	apply(t, next, l.plan())
	none, err := next.OpenLists()
	must(t, err)
	defer none.Close()
	expectHolds(t, none, "one", false)
	expectFilled(t, none, false)
	expectFilled(t, held, true)
	if none.Has(netip.MustParseAddr(directAddr)) || !held.Has(netip.MustParseAddr(directAddr)) {
		t.Error("the lists did not go, or went for those who have them open")
	}
}

func expectHolds(t *testing.T, l *Lists, key string, want bool) {
	t.Helper()
	holds, err := l.Holds(key)
	if err != nil || holds != want {
		t.Errorf("the maps hold %q: %t, %v; want %t", key, holds, err, want)
	}
}

func expectFilled(t *testing.T, l *Lists, want bool) {
	t.Helper()
	filled, err := l.Filled()
	if err != nil || filled != want {
		t.Errorf("lists have filled the maps: %t, %v; want %t", filled, err, want)
	}
}

// TestHalfPinnedListsAreNotTakenForWhole: a process may be killed between the pin of one
// map and that of the next.
func TestHalfPinnedListsAreNotTakenForWhole(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	for kind, of := range listMapKinds {
		for family, name := range of.declared {
			d.UseLists(newLists(t, "one", forEver("62.10.9.0/24")))
			apply(t, d, l.listed())
			other := newLists(t, "other", forEver("62.10.9.0/24"))
			must(t, pinObject(d.mapPin(name), other.maps[kind][family]))
			half, err := d.OpenLists()
			must(t, err)
			expectHolds(t, half, "one", false)
			expectHolds(t, half, "other", false)
			expectFilled(t, half, true)
			must(t, half.Close())
		}
	}
}

// filler are so many prefixes of each family beside all that the tests ask for.
func filler(n int) (list []netip.Prefix) {
	for i := range n {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 25))
	}
	for i := range n {
		list = append(list, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x20, 4: byte(i >> 8), 5: byte(i)}), 49))
	}
	return list
}

// and adds prefixes to a group.
func (g ListGroup) and(list []netip.Prefix) ListGroup {
	g.Prefixes = slices.SortedFunc(slices.Values(slices.Concat(g.Prefixes, list)), config.ComparePrefixes)
	return g
}

// lengths are lists without and with what makes them long.
var lengths = map[string][]netip.Prefix{"short": nil, "long": filler(longList + 1)}

// TestListsEndOneByOne: of nested prefixes the one that lasts longest decides.
func TestListsEndOneByOne(t *testing.T) {
	now, err := kernel.BootTime()
	must(t, err)
	for name, more := range lengths {
		l := newLists(t, "key",
			ListGroup{Prefixes: sortedPrefixes("62.10.0.0/16", "62.11.0.0/16", "2001:db8::/32", "2001:dbb::1/128", "fd00:1::/48"), Ends: now + time.Hour}.and(more),
			ListGroup{Prefixes: sortedPrefixes("62.10.9.0/24", "2001:db8:9::/48", "62.0.0.0/8", "62.11.0.0/16", "2001:dbb::/64"), Ends: time.Second}, // long over
			forEver("62.10.10.0/24", "62.12.0.0/16", "2001:db9::/32", "2001:dba::1/128", "2001:dba::2/127"))
		for addr, want := range map[string]bool{
			"62.10.9.9": true, "62.10.10.1": true, "62.10.1.1": true, "62.11.1.1": true, "62.12.1.1": true, "62.13.1.1": false,
			"63.0.0.1": false, "2001:db8:9::1": true, "2001:db9::1": true, "2001:dba::": false, "2001:dba::1": true, "2001:dba::3": true,
			"2001:dbb::": false, "2001:dbb::1": true, "fd00:1::1": true, "fd00:2::1": false,
		} {
			if got := l.Has(netip.MustParseAddr(addr)); got != want {
				t.Errorf("a %s list has %s: %t, want %t", name, addr, got, want)
			}
		}
		for prefix, want := range map[string]bool{
			"62.10.0.0/16": true, "62.10.0.0/17": true, "62.0.0.0/8": true, "60.0.0.0/6": false, "62.0.0.0/7": false, "2001:db8::/31": true, "2001:db8::/30": false, "::/0": false,
			"2001:dbb::/64": true, "2001:dba::/126": false, "2001:dba::2/127": true, "fd00:1::/49": true, "fd00::/47": false,
		} {
			if got, err := l.Covers(netip.MustParsePrefix(prefix)); got != want || err != nil {
				t.Errorf("%s lists cover %s: %t, %v; want %t", name, prefix, got, err, want)
			}
		}
	}
}

// TestManyEntriesAreAllThere: a long list of each kind, more than one batch.
func TestManyEntriesAreAllThere(t *testing.T) {
	const n = 2*fillBatch + 7
	hosts := make([]netip.Prefix, n)
	for i := range hosts {
		hosts[i] = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x30, 14: byte(i >> 8), 15: byte(i)}), 128)
	}
	list := forEver().and(filler(n)).and(hosts).Prefixes
	l := newLists(t, "key", ListGroup{Prefixes: list})
	for _, p := range list {
		if !l.Has(p.Addr()) {
			t.Fatalf("%s is missing", p)
		}
		if next := lastAddr(p).Next(); l.Has(next) && p.Bits() < 128 {
			t.Fatalf("%s behind %s is there", next, p)
		}
	}
	if l.Has(netip.MustParseAddr("19.255.255.255")) || l.Has(netip.MustParseAddr("2100::")) {
		t.Error("more is there")
	}
}

// TestListsAreExchangedWithoutAMisjudgedPacket: what is in the old list and in the new one
// is always direct, and what is in neither never.
func TestListsAreExchangedWithoutAMisjudgedPacket(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			d.UseLists(newLists(t, "0", forEver("62.10.9.0/24")))
			apply(t, d, l.listed())
			s, server := l.newSender(t), l.newCapture(t)
			server.arrives(t, s, directUDP)
			f := l.startListFlood(t, d, s)
			for i := range upgrades {
				before := f.rounds.Load()
				more := lengths[[]string{"short", "long"}[i/2%2]]
				d.UseLists(newLists(t, fmt.Sprint(i), forEver([]string{"62.10.9.0/24", "62.10.8.0/23"}[i%2], fmt.Sprintf("62.20.%d.0/24", i)).and(more)))
				p := l.listed()
				p.Lists[0].Digest = fmt.Sprint(i)
				apply(t, d, p)
				await(t, "flood to go on", func() bool { return f.rounds.Load() > before+1 || f.failed.Load() })
			}
			f.stop(t)
			server.arrives(t, s, directUDP)
			if n := server.seen[refusedUDP]; n > 0 {
				t.Errorf("%d packets to what no list has reached the server", n)
			}
		})
	}
}

// listFlood sends packets to what a list has and to what none has, as flood does.
type listFlood struct {
	rounds   atomic.Int64
	failed   atomic.Bool
	ending   atomic.Bool
	done     chan struct{}
	err      error
	counters *ebpf.Map
	lan      uint32
	sent     [2]uint64 // direct and refused, the counters' begin included
}

func (l *lab) startListFlood(t *testing.T, d *Datapath, s sender) *listFlood {
	t.Helper()
	m, err := d.openMap(abi.DatapathMapCounters)
	must(t, err)
	f := &listFlood{counters: m, done: make(chan struct{}), lan: uint32(l.lan.Attrs().Index)}
	counted(t, d, s, refusedUDP, int(f.lan), abi.VerdictRefused, abi.ReasonUDP)
	f.sent, err = f.counted()
	must(t, err)
	go func() {
		defer close(f.done)
		for !f.ending.Load() && f.err == nil {
			f.err = f.round(s)
			f.rounds.Add(1)
		}
		f.failed.Store(f.err != nil)
	}()
	t.Cleanup(func() { f.ending.Store(true); <-f.done; m.Close() })
	return f
}

func (f *listFlood) round(s sender) error {
	const packets = 64
	for range packets {
		if err := errors.Join(s.send(directUDP), s.send(refusedUDP)); err != nil {
			return err
		}
	}
	f.sent[0] += packets
	f.sent[1] += packets
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		got, err := f.counted()
		if err != nil || got == f.sent {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("of %d packets %d were direct and %d refused", f.sent, got[0], got[1])
		}
	}
}

func (f *listFlood) counted() (got [2]uint64, err error) {
	for i, key := range []abi.DatapathCounterKey{
		{Ifindex: f.lan, Verdict: abi.VerdictDirect, Reason: abi.ReasonDirectList},
		{Ifindex: f.lan, Verdict: abi.VerdictRefused, Reason: abi.ReasonUDP},
	} {
		var perCPU []abi.DatapathCounter
		if err := f.counters.Lookup(key, &perCPU); err != nil {
			return got, fmt.Errorf("read counter: %w", err)
		}
		for _, c := range perCPU {
			got[i] += c.Packets
		}
	}
	return got, nil
}

func (f *listFlood) stop(t *testing.T) {
	t.Helper()
	f.ending.Store(true)
	<-f.done
	if f.err != nil {
		t.Error(f.err)
	}
	t.Logf("%d packets were direct", f.sent[0])
}
