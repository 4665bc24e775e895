package loader

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// TestShortListsHaveNoTree, nor long ones a trie, but for what is in no tree.
func TestShortListsHaveNoTree(t *testing.T) {
	now, err := kernel.BootTime()
	must(t, err)
	for name, c := range map[string]struct {
		group             ListGroup
		tries, nodes, end [2]uint32
	}{
		"none":         {forEver("62.10.9.0/24"), [2]uint32{1, 1}, [2]uint32{1, 1}, [2]uint32{1, 1}},
		"short":        {forEver().and(filler(longList)), [2]uint32{longList, longList}, [2]uint32{1, 1}, [2]uint32{1, 1}},
		"long":         {forEver().and(filler(longList + 1)), [2]uint32{1, 1}, [2]uint32{1 + 3 + 1 + 12 + 196, 1 + 1 + 1 + 5 + 147}, [2]uint32{1, 1}},
		"with a life":  {ListGroup{Ends: now + time.Hour}.and(filler(longList + 1)), [2]uint32{1, 1}, [2]uint32{213, 155}, [2]uint32{258, 258}},
		"with a host":  {forEver("2001:db8::1/128", "fd00::/8").and(filler(longList + 1)), [2]uint32{1, 2}, [2]uint32{213, 155}, [2]uint32{1, 1}},
		"one is short": {forEver("2001:db8::/32").and(filler(longList + 1)[:longList+1]), [2]uint32{1, 1}, [2]uint32{213, 1}, [2]uint32{1, 1}},
	} {
		l := newLists(t, "key", c.group)
		for family := range 2 {
			got := [3]uint32{l.maps[listTries][family].MaxEntries(), l.maps[listNodes][family].MaxEntries(), l.maps[listEnds][family].MaxEntries()}
			if want := [3]uint32{c.tries[family], c.nodes[family], c.end[family]}; got != want {
				t.Errorf("%s, family %d: %d entries of a trie, nodes and deadlines, want %d", name, family, got, want)
			}
			if beside := shapeOf(t, l, family).Trie != 0; beside != (c.nodes[family] > 1 && c.tries[family] > 1) {
				t.Errorf("%s, family %d: there is a trie beside the tree: %t", name, family, beside)
			}
		}
	}
}

func shapeOf(t *testing.T, l *Lists, family int) (shape abi.DatapathListShape) {
	t.Helper()
	raw, err := l.maps[listNodes][family].LookupBytes(uint32(0))
	must(t, err)
	_, err = binary.Decode(raw, binary.NativeEndian, &shape)
	must(t, err)
	return shape
}

// TestATreeTakesLittle: no more than what docs/LISTS.md says of it, nor is it written to again.
func TestATreeTakesLittle(t *testing.T) {
	now, err := kernel.BootTime()
	must(t, err)
	const n = 60_000
	l := newLists(t, "key", ListGroup{Ends: now + time.Hour}.and(filler(n)))
	if bytes, err := l.Memory(); err != nil || bytes > 24*n || bytes < 20*n {
		t.Errorf("a list of both families takes %d bytes, %v", bytes, err)
	}
	short := newLists(t, "key", forEver("62.10.9.0/24"))
	if bytes, err := short.Memory(); err != nil || bytes > 4096 {
		t.Errorf("a short list takes %d bytes, %v", bytes, err)
	}
	for family, most := range [2]int{4, 10} {
		for kind, most := range map[listMap]int{listNodes: most, listEnds: 5} {
			m := l.maps[kind][family]
			if bytes := int(m.MaxEntries()) * int(m.ValueSize()); bytes > most*n {
				t.Errorf("%v takes %d bytes, more than %d a prefix", m, bytes, most)
			}
			if err := m.Put(uint32(1), make([]byte, m.ValueSize())); err == nil {
				t.Errorf("%v can be written to", m)
			}
		}
	}
}

// TestLongListsAreJudgedAndExplained by the programs in force and their copies, and go on so
// when another process hands them on.
func TestLongListsAreJudgedAndExplained(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	now, err := kernel.BootTime()
	must(t, err)
	d.UseLists(newLists(t, "long", forEver("62.10.9.0/24"), ListGroup{Ends: now + time.Hour}.and(filler(longList+1))))
	apply(t, d, l.listed())
	s, server := l.newSender(t), l.newCapture(t)
	server.arrives(t, s, directUDP)
	held, err := d.OpenLists()
	must(t, err)
	defer held.Close()
	next := Open(Options{Root: l.root, Namespace: "lab"})
	next.UseLists(held)
	apply(t, next, l.listed())
	expectHolds(t, held, "long", true)
	server.arrives(t, s, directUDP)
	if !held.Has(netip.MustParseAddr("20.0.1.1")) || held.Has(netip.MustParseAddr("20.0.1.129")) {
		t.Error("the maps that are handed on hold something else")
	}

	e, err := next.Explainer(l.listed())
	must(t, err)
	defer e.Close()
	lan, err := net.InterfaceByName("lan0")
	must(t, err)
	for addr, want := range map[string]abi.Reason{directAddr: abi.ReasonDirectList, "20.0.1.1": abi.ReasonDirectList, "20.0.1.129": abi.ReasonUDP} {
		said, err := e.Judge(plan.LAN{Index: lan.Index, Ethernet: true}, frameTo(addr, 7000), 0)
		must(t, err)
		if said.Reason != want {
			t.Errorf("to %s is judged by %s, want %s", addr, said.Reason, want)
		}
	}
}

// TestListMapsAreWhatTheyAreTakenFor: Holds goes by these sizes.
func TestListMapsAreWhatTheyAreTakenFor(t *testing.T) {
	spec, err := abi.LoadDatapath()
	must(t, err)
	for kind, of := range listMapKinds {
		for family, name := range of.declared {
			m := spec.Maps[name]
			if m == nil || m.Type != of.is || uintptr(m.ValueSize) != of.value[family] {
				t.Errorf("map %s is %+v", name, m)
			}
			if len(listName(listMap(kind), family, "key")) > 15 || declaredName(listName(listMap(kind), family, "key")) != name || declaredName(name) != name {
				t.Errorf("map %s is %s in the kernel", name, listName(listMap(kind), family, "key"))
			}
		}
	}
	if unsafe.Sizeof(abi.DatapathListEnds{}) != uintptr(4*endsPerEntry) || spec.Maps["list4_nodes"].Type != ebpf.Array {
		t.Error("the maps of trees are others")
	}
}
