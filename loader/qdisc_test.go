package loader

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

func TestClsactOfSomebodyElseStays(t *testing.T) {
	for _, mode := range modes {
		for _, used := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, filters %t", mode.name, used), func(t *testing.T) {
				l := newLab(t)
				must(t, netlink.QdiscAdd(clsactOf(l.lan)))
				if used {
					l.addForeignFilters(t)
				}
				before := foreignFilters(t, l.lan)
				d := l.open(t, mode.clsact)
				for range 2 {
					apply(t, d, l.plan())
					if after := foreignFilters(t, l.lan); after != before {
						t.Errorf("filters were\n%s and are\n%s", before, after)
					}
				}
				must(t, d.Remove())
				if after := foreignFilters(t, l.lan); after != before {
					t.Errorf("filters were\n%s and are\n%s", before, after)
				}
				if q := qdiscAt(t, l.lan); q != "clsact" {
					t.Errorf("the clsact qdisc became %q", q)
				}
				if q := qdiscAt(t, l.wan); q != "" {
					t.Errorf("our qdisc stays at the uplink: %s", q)
				}
			})
		}
	}
}

func (l *lab) addForeignFilters(t *testing.T) {
	t.Helper()
	f := newForeign(t, next)
	in, out := f.filter(l.lan, 2), f.filter(l.lan, 3)
	out.Parent = netlink.HANDLE_MIN_EGRESS
	must(t, netlink.FilterAdd(in))
	must(t, netlink.FilterAdd(out))
	must(t, netlink.FilterAdd(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: l.lan.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL, Priority: 7,
	}}))
}

// foreignFilters lists those that are not ours.
func foreignFilters(t *testing.T, l netlink.Link) string {
	t.Helper()
	filters, err := linkFilters(l)
	must(t, err)
	list := ""
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterPrefix) {
			continue
		}
		list += fmt.Sprintf("%s %+v\n", f.Type(), *f.Attrs())
	}
	return list
}

func TestClsactThatWeAddedStaysWhileSomebodyUsesIt(t *testing.T) {
	l := newLab(t)
	d := l.open(t, true)
	apply(t, d, l.plan())
	f := newForeign(t, next)
	must(t, netlink.FilterAdd(f.filter(l.lan, 2)))
	before := foreignFilters(t, l.lan)
	must(t, d.Remove())
	if after := foreignFilters(t, l.lan); after != before || after == "" {
		t.Errorf("filters were\n%s and are\n%s", before, after)
	}
	if q := qdiscAt(t, l.wan); q != "" {
		t.Errorf("our qdisc stays at the uplink: %s", q)
	}
}

// The index of an interface that is gone is given again; what we remember of
// the old one says nothing of the new one's qdisc.
func TestClsactOfARecreatedInterfaceIsItsOwners(t *testing.T) {
	l := newLab(t)
	d := l.open(t, true)
	apply(t, d, l.plan())
	index := l.lan.Attrs().Index
	must(t, netlink.LinkDel(l.lan))
	l.makeLAN(t, index)
	must(t, netlink.QdiscAdd(clsactOf(l.lan)))
	apply(t, d, l.plan())
	must(t, d.Remove())
	if q := qdiscAt(t, l.lan); q != "clsact" {
		t.Errorf("the clsact qdisc became %q", q)
	}
}

func TestIngressQdiscIsAClearErrorForClsact(t *testing.T) {
	l := newLab(t)
	must(t, netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.wan.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}))
	d := l.open(t, true)
	_, err := d.ApplyGuards(l.plan())
	if err == nil || !strings.Contains(err.Error(), "wan0 has an ingress qdisc") || !strings.Contains(err.Error(), "tc qdisc del dev wan0 ingress") {
		t.Errorf("error is %v", err)
	}
	if filters := foreignFilters(t, l.wan); filters != "" {
		t.Errorf("filters were added:\n%s", filters)
	}
	must(t, d.Remove())
	if q := qdiscAt(t, l.wan); q != "ingress" {
		t.Errorf("the ingress qdisc became %q", q)
	}
	if kernelHasTCX() { // it is no hindrance to tcx
		apply(t, l.open(t, false), l.plan())
		expectAttachments(t, d, l.attachments(false))
	}
}

func TestFilterOfAnotherKindAtOurPriorityIsAClearError(t *testing.T) {
	l := newLab(t)
	must(t, netlink.QdiscAdd(clsactOf(l.lan)))
	must(t, netlink.FilterAdd(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: l.lan.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL, Priority: filterPriority,
	}}))
	d := l.open(t, true)
	err := guards(t, d, l.plan()).AttachLANs()
	if err == nil || !strings.Contains(err.Error(), "a u32 filter of somebody else has priority 1") ||
		!strings.Contains(err.Error(), "tc filter show dev lan0 ingress") {
		t.Errorf("error is %v", err)
	}
}

func TestForeignFilterAheadIsOvertaken(t *testing.T) {
	l := newLab(t)
	d := l.open(t, true)
	apply(t, d, l.plan())
	s := l.newSender(t)
	server := l.newCapture(t)
	server.arrives(t, s, directUDP)
	lan, wan := l.lan.Attrs().Index, l.wan.Attrs().Index
	for handle := range uint32(3) {
		l.putAhead(t, newForeign(t, accept), true, handle+1)
		skipped := l.attachments(true)
		skipped[0].Ahead, skipped[2].Ahead = int(handle)+1, int(handle)+1
		before := packets(t, d, lan, abi.VerdictRefused, abi.ReasonUDP)
		server.arrives(t, s, refusedUDP) // both hooks are skipped: nothing of ours is left to judge
		if packets(t, d, lan, abi.VerdictRefused, abi.ReasonUDP) != before {
			t.Error("the foreign filter was not ahead")
		}
		apply(t, d, l.plan())
		counted(t, d, s, refusedUDP, lan, abi.VerdictRefused, abi.ReasonUDP)
		counted(t, d, s, torTCP, wan, abi.VerdictRefused, abi.ReasonUplinkGuard)
		expectAttachments(t, d, l.attachments(true))
	}
}

// A process killed while it overtakes leaves two filters at a hook.
func TestFilterLeftByAKilledProcessGoes(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		t.Run(fmt.Sprintf("somebody ahead %t", ahead), func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, true)
			apply(t, d, l.plan())
			g := guards(t, d, l.plan())
			second := newHook(KindLAN, l.lan.Attrs().Index).filter(g.collection.Programs[programLAN])
			second.Handle = filterHandle2
			must(t, netlink.FilterAdd(second))
			if ahead {
				l.putAhead(t, newForeign(t, next), true, 1)
			}
			apply(t, d, l.plan())
			expectAttachments(t, d, l.attachments(true))
		})
	}
}

// A killed process leaves the qdisc without a filter; nothing breaks.
func TestQdiscWithoutFilterIsNoError(t *testing.T) {
	l := newLab(t)
	d := l.open(t, true)
	must(t, os.MkdirAll(d.Dir(), 0o700))
	must(t, d.addClsact(l.lan))
	apply(t, d, l.plan())
	must(t, d.Remove())
	if _, err := os.Stat(d.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins stay: %v", err)
	}
}
