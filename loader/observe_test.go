package loader

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// What a program of somebody else says of each packet.
const (
	next   = -1 // TC_ACT_UNSPEC
	accept = 0  // TC_ACT_OK: nobody behind is asked
)

// foreign is a program of somebody else; it notes the marks that it sees.
type foreign struct {
	program *ebpf.Program
	marks   *ebpf.Map
}

func newForeign(t *testing.T, verdict int32) *foreign {
	t.Helper()
	marks, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 64})
	must(t, err)
	const offsetMark = 8 // in struct __sk_buff
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, offsetMark, asm.Word),
			asm.StoreMem(asm.RFP, -4, asm.R2, asm.Word),
			asm.LoadMapPtr(asm.R1, marks.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.R2),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Mov.Imm32(asm.R0, verdict),
			asm.Return(),
		},
	})
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(program.Close(), marks.Close())) })
	return &foreign{program, marks}
}

// observe puts a program behind ours, as a filter of a clsact qdisc that is
// not torbpf's, and so stays.
func observe(t *testing.T, l netlink.Link) *foreign {
	t.Helper()
	f := newForeign(t, next)
	must(t, netlink.QdiscAdd(clsactOf(l)))
	must(t, netlink.FilterAdd(f.filter(l, 2)))
	return f
}

func (f *foreign) filter(l netlink.Link, priority uint16) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: 1, Protocol: unix.ETH_P_ALL, Priority: priority,
		},
		Fd: f.program.FD(), Name: "foreign", DirectAction: true,
	}
}

// attachTCX puts the program ahead of all others.
func (f *foreign) attachTCX(t *testing.T, l netlink.Link, where ebpf.AttachType) link.Link {
	t.Helper()
	attached, err := link.AttachTCX(link.TCXOptions{
		Interface: l.Attrs().Index, Program: f.program, Attach: where, Anchor: link.Head(),
	})
	must(t, err)
	t.Cleanup(func() { attached.Close() })
	return attached
}

func (f *foreign) id(t *testing.T) uint32 {
	t.Helper()
	info, err := f.program.Info()
	must(t, err)
	id, _ := info.ID()
	return uint32(id)
}

func (f *foreign) saw(mark uint32) bool {
	var noted uint32
	return f.marks.Lookup(mark, &noted) == nil
}

func (f *foreign) awaitMark(t *testing.T, mark uint32) {
	t.Helper()
	await(t, "mark", func() bool { return f.saw(mark) })
}

func (f *foreign) never(t *testing.T, marks ...uint32) {
	t.Helper()
	for _, mark := range marks {
		if f.saw(mark) {
			t.Errorf("mark %#x came by", mark)
		}
	}
}

func (l *lab) attachType(kind string) ebpf.AttachType { return newHook(kind, 0).attachType() }

// kernelHasTCX says so by version: a newer kernel without it fails the tests.
func kernelHasTCX() bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version >= 6<<16|6<<8
}

func needTCX(t *testing.T) {
	t.Helper()
	if !kernelHasTCX() {
		t.Skip("this kernel is older than tcx (Linux 6.6)")
	}
}

// tcxPrograms returns the ids of both directions' programs, in order.
func tcxPrograms(t *testing.T, l netlink.Link) []uint32 {
	t.Helper()
	if !kernelHasTCX() {
		return nil
	}
	var ids []uint32
	for _, where := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		chain, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: where})
		must(t, err)
		for _, p := range chain.Programs {
			ids = append(ids, uint32(p.ID))
		}
	}
	return ids
}

// lookupPrograms counts the sk_lookup programs of our namespace.
func lookupPrograms(t *testing.T) int {
	t.Helper()
	n, err := countLookups()
	must(t, err)
	return n
}

func countLookups() (int, error) {
	namespace, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return 0, err
	}
	defer namespace.Close()
	chain, err := link.QueryPrograms(link.QueryOptions{Target: int(namespace.Fd()), Attach: ebpf.AttachSkLookup})
	if err != nil {
		return 0, err
	}
	return len(chain.Programs), nil
}

// qdiscAt returns the kind of the clsact or ingress qdisc, "" if none.
func qdiscAt(t *testing.T, l netlink.Link) string {
	t.Helper()
	q, err := qdiscAtClsact(l)
	must(t, err)
	if q == nil {
		return ""
	}
	return q.Type()
}

func programIDs(t *testing.T, d *Datapath) []uint32 {
	t.Helper()
	var ids []uint32
	entries, err := os.ReadDir(d.programPin(""))
	must(t, err)
	for _, entry := range entries {
		p, err := ebpf.LoadPinnedProgram(d.programPin(entry.Name()), nil)
		must(t, err)
		info, err := p.Info()
		must(t, err)
		id, _ := info.ID()
		ids = append(ids, uint32(id))
		must(t, p.Close())
	}
	return ids
}

func mapIDs(t *testing.T, d *Datapath) map[string]ebpf.MapID {
	t.Helper()
	ids := make(map[string]ebpf.MapID)
	entries, err := os.ReadDir(d.mapPin(""))
	must(t, err)
	for _, entry := range entries {
		m, err := d.openMap(entry.Name())
		must(t, err)
		info, err := m.Info()
		must(t, err)
		ids[entry.Name()], _ = info.ID()
		must(t, m.Close())
	}
	return ids
}

func expectLANs(t *testing.T, d *Datapath, want ...uint32) {
	t.Helper()
	slices.Sort(want)
	if have := lanIndexes(t, d); !slices.Equal(have, want) {
		t.Errorf("LANs are %v, want %v", have, want)
	}
}

func lanIndexes(t *testing.T, d *Datapath) []uint32 {
	t.Helper()
	m, err := d.openMap(abi.DatapathMapLans)
	must(t, err)
	defer m.Close()
	var indexes []uint32
	var index uint32
	var lan abi.DatapathLan
	entries := m.Iterate()
	for entries.Next(&index, &lan) {
		indexes = append(indexes, index)
	}
	must(t, entries.Err())
	slices.Sort(indexes)
	return indexes
}

func sorted(attachments []Attachment) []Attachment {
	slices.SortFunc(attachments, func(a, b Attachment) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), cmp.Compare(a.Kind, b.Kind))
	})
	return attachments
}

// forget empties what was noted.
func (f *foreign) forget(t *testing.T) {
	t.Helper()
	var mark uint32
	for f.marks.NextKey(nil, &mark) == nil {
		must(t, f.marks.Delete(mark))
	}
}

// lookupTellsInterface says by version whether programDNS can be loaded.
func lookupTellsInterface() bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version >= 5<<16|17<<8
}
