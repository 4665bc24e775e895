package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/torbpf/torbpf/internal/abi"
)

// modes are the two ways to attach; what is called tcx falls back to clsact on
// a kernel without it, so that the same claims are tested there.
var modes = []struct {
	name   string
	clsact bool
}{{"tcx", false}, {"clsact", true}}

func (l *lab) attachments(clsact bool) []Attachment {
	by := "tcx"
	if clsact || !kernelHasTCX() {
		by = "clsact"
	}
	lan, wan := l.lan.Attrs().Index, l.wan.Attrs().Index
	return []Attachment{{KindLAN, lan, by, 0}, {KindOut, lan, by, 0}, {KindUplink, wan, by, 0}}
}

func expectAttachments(t *testing.T, d *Datapath, want []Attachment) {
	t.Helper()
	have, err := d.Attachments()
	must(t, err)
	if !slices.Equal(have, want) {
		t.Errorf("attached are\n%v, want\n%v", have, want)
	}
}

func TestAttachedProgramsMarkAndRefuse(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			marks := observe(t, l.lan)
			d := l.open(t, mode.clsact)
			apply(t, d, l.plan())
			expectAttachments(t, d, l.attachments(mode.clsact))

			s, server := l.newSender(t), l.newCapture(t)
			lan, wan := l.lan.Attrs().Index, l.wan.Attrs().Index
			server.arrives(t, s, directUDP)
			marks.awaitMark(t, 1<<24)
			counted(t, d, s, refusedUDP, lan, abi.VerdictRefused, abi.ReasonUDP)
			counted(t, d, s, torTCP, lan, abi.VerdictTor, abi.ReasonTCP)
			marks.awaitMark(t, 8<<24)
			counted(t, d, s, localUDP, lan, abi.VerdictLocal, abi.ReasonLocalSubnet)
			marks.awaitMark(t, 2<<24)
			if n := packets(t, d, wan, abi.VerdictRefused, abi.ReasonUplinkGuard); n != 2 {
				t.Errorf("%d packets were refused at the uplink, want the TCP and the local one", n)
			}
			server.arrives(t, s, directUDP)
			if server.seen[refusedUDP]+server.seen[torTCP]+server.seen[localUDP] > 0 {
				t.Errorf("at the server arrived %v", server.seen)
			}
			marks.never(t, 12<<24)
		})
	}
}

func TestApplyingAgainUpdatesInPlace(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			apply(t, d, l.plan())
			before, programs := hookState(t, d, l), programIDs(t, d)
			for range 3 {
				apply(t, d, l.plan())
			}
			expectAttachments(t, d, l.attachments(mode.clsact))
			if after := hookState(t, d, l); after != before {
				t.Errorf("hooks were\n%s and are\n%s", before, after)
			}
			if slices.Equal(programs, programIDs(t, d)) {
				t.Errorf("the programs %v were not exchanged", programs)
			}
		})
	}
}

// AttachLANs may be asked again when it went wrong halfway.
func TestAttachingOneGenerationTwiceIsNoError(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	g := guards(t, d, l.plan())
	for range 2 {
		must(t, g.AttachLANs())
	}
	expectAttachments(t, d, l.attachments(false))
}

func TestSwitchingBetweenTCXAndClsactLeavesNothingDoubled(t *testing.T) {
	needTCX(t)
	l := newLab(t)
	l.open(t, false) // removed at the end
	for _, clsact := range []bool{false, true, false, true, false} {
		d := Open(Options{Root: l.root, Namespace: "lab", Clsact: clsact})
		apply(t, d, l.plan())
		expectAttachments(t, d, l.attachments(clsact))
		for _, link := range []netlink.Link{l.lan, l.wan} {
			if has := qdiscAt(t, link) != ""; has != clsact {
				t.Errorf("clsact %t, but is there a clsact qdisc at %s: %t", clsact, link.Attrs().Name, has)
			}
			if n := len(tcxPrograms(t, link)); clsact && n > 0 {
				t.Errorf("%d tcx programs stay at %s", n, link.Attrs().Name)
			}
		}
		s := l.newSender(t)
		counted(t, d, s, torTCP, l.lan.Attrs().Index, abi.VerdictTor, abi.ReasonTCP) // once each
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			if d.Present() {
				t.Error("present before anything was applied")
			}
			for range 2 {
				g, err := d.ApplyGuards(l.plan())
				must(t, err)
				must(t, g.AttachLANs())
				must(t, g.Close())
			}
			if !d.Present() {
				t.Error("not present after attaching")
			}
			programs, maps := programIDs(t, d), mapIDs(t, d)
			if len(programs) != pinnedPrograms || len(maps) != pinnedMaps {
				t.Errorf("pinned are %d programs and %d maps, want %d and %d", len(programs), len(maps), pinnedPrograms, pinnedMaps)
			}
			for range 2 {
				must(t, d.Remove())
				expectNothing(t, d, l)
			}
			for _, id := range programs {
				await(t, "program to be freed", func() bool {
					p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
					p.Close()
					return errors.Is(err, os.ErrNotExist)
				})
			}
			for name, id := range maps {
				await(t, "map "+name+" to be freed", func() bool {
					// To open a map of programs is to have the kernel empty it later, for
					// which it keeps it.
					next, err := ebpf.MapGetNextID(id - 1)
					return errors.Is(err, os.ErrNotExist) || err == nil && next != id
				})
			}
		})
	}
}

// expectNothing looks for links, filters, qdiscs and pins in the namespace.
func expectNothing(t *testing.T, d *Datapath, l *lab) {
	t.Helper()
	for _, dev := range []netlink.Link{l.lan, l.wan} {
		if p := tcxPrograms(t, dev); len(p) > 0 {
			t.Errorf("tcx programs %v stay at %s", p, dev.Attrs().Name)
		}
		if q := qdiscAt(t, dev); q != "" {
			t.Errorf("qdisc %s stays at %s", q, dev.Attrs().Name)
		}
	}
	expectNoLinks(t, d)
	if d.Present() {
		t.Error("still present")
	}
}

// expectNoLinks looks for links to the namespace itself, and for pins.
func expectNoLinks(t *testing.T, d *Datapath) {
	t.Helper()
	if n := lookupPrograms(t); n != 0 {
		t.Errorf("%d sk_lookup programs stay", n)
	}
	if _, err := os.Stat(d.Dir()); !os.IsNotExist(err) {
		t.Errorf("pins stay: %v", err)
	}
}

func TestRemoveGoesOnAfterAnError(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			apply(t, d, l.plan())
			// A program where a link should be cannot be detached.
			wrong := d.linkPin(newHook(KindUplink, 4711).pin())
			m, err := d.openMap("lans")
			must(t, err)
			defer m.Close()
			must(t, m.Pin(wrong+"x"))
			must(t, os.Rename(wrong+"x", wrong))
			if err := d.Remove(); err == nil {
				t.Error("no error about a pin that is no link")
			}
			expectNothing(t, d, l)
		})
	}
}

func TestRecreatedInterface(t *testing.T) {
	for _, mode := range modes {
		for _, sameIndex := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, same index %t", mode.name, sameIndex), func(t *testing.T) {
				l := newLab(t)
				d := l.open(t, mode.clsact)
				apply(t, d, l.plan())
				index := l.lan.Attrs().Index
				must(t, netlink.LinkDel(l.lan))
				expectAttachments(t, d, l.attachments(mode.clsact)[2:])
				if !sameIndex {
					index += 100
				}
				l.makeLAN(t, index)
				expectAttachments(t, d, l.attachments(mode.clsact)[2:])
				apply(t, d, l.plan())
				expectAttachments(t, d, sorted(l.attachments(mode.clsact)))
				s := l.newSender(t)
				counted(t, d, s, refusedUDP, index, abi.VerdictRefused, abi.ReasonUDP)
				expectLANs(t, d, uint32(index))
				if links, _, err := d.pinnedLinks(); err != nil || kernelHasTCX() && !mode.clsact && len(links) != 3 {
					t.Errorf("pinned links are %v, %v", links, err)
				}
			})
		}
	}
}

func TestRemoveWorksWhenInterfacesAreGone(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			apply(t, d, l.plan())
			must(t, netlink.LinkDel(l.lan))
			must(t, netlink.LinkDel(l.wan))
			expectAttachments(t, d, nil)
			must(t, d.Remove())
			expectNoLinks(t, d)
		})
	}
}

// The plan of a host without an uplink still wants the DNS guard, and the interface
// that was one keeps its own: it may be one again before anybody plans.
func TestPlanWithoutUplinkKeepsTheGuards(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	p := l.plan()
	p.Uplinks = nil
	apply(t, d, p)
	expectAttachments(t, d, l.attachments(false))
	if n := lookupPrograms(t); n != 1 {
		t.Errorf("%d sk_lookup programs are attached, want 1", n)
	}
}

// A process killed while it replaced a link leaves a second one attached.
func TestLinkLeftByAKilledProcessGoes(t *testing.T) {
	needTCX(t)
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	foreign := newForeign(t, next)
	stray := foreign.attachTCX(t, l.wan, l.attachType(KindUplink))
	must(t, stray.Pin(d.linkPin(newPrefix+"uplink-99")))
	must(t, stray.Close())
	apply(t, d, l.plan())
	if n := len(tcxPrograms(t, l.wan)); n != 1 {
		t.Errorf("%d tcx programs at the uplink, want 1", n)
	}
}

func TestForeignProgramAheadIsOvertaken(t *testing.T) {
	needTCX(t)
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	s, server := l.newSender(t), l.newCapture(t)
	server.arrives(t, s, directUDP)

	foreign := newForeign(t, accept)
	foreign.attachTCX(t, l.lan, l.attachType(KindLAN))
	skipped := l.attachments(false)
	skipped[0].Ahead = 1
	expectAttachments(t, d, skipped)
	wan := l.wan.Attrs().Index
	counted(t, d, s, refusedUDP, wan, abi.VerdictRefused, abi.ReasonUplinkGuard) // skipped us, but the guard holds
	apply(t, d, l.plan())
	expectAttachments(t, d, l.attachments(false))
	counted(t, d, s, refusedUDP, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonUDP)
	if p := tcxPrograms(t, l.lan); len(p) != 3 || p[1] != foreign.id(t) {
		t.Errorf("tcx programs are %v, want ours, %d, and ours of the other direction", p, foreign.id(t))
	}
	server.arrives(t, s, directUDP)
	if server.seen[refusedUDP] > 0 {
		t.Error("a refused packet arrived")
	}
}

func hookState(t *testing.T, d *Datapath, l *lab) string {
	t.Helper()
	state := ""
	entries, err := os.ReadDir(d.linkPin(""))
	must(t, err)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "delivery") || strings.HasPrefix(entry.Name(), "departure") {
			continue // its links cannot be updated
		}
		pinned, err := link.LoadPinnedLink(d.linkPin(entry.Name()), nil)
		must(t, err)
		info, err := pinned.Info()
		must(t, err)
		must(t, pinned.Close())
		state += fmt.Sprintf("%s is link %d\n", entry.Name(), info.ID)
	}
	for _, dev := range []netlink.Link{l.lan, l.wan} {
		filters, err := linkFilters(dev)
		must(t, err)
		for _, f := range filters {
			state += fmt.Sprintf("filter of %s: %+v\n", dev.Attrs().Name, *f.Attrs())
		}
	}
	return state
}
