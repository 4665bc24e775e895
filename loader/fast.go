package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

const (
	programFastIn    = abi.FastProgTorbpfFastIn
	programFramesIn  = abi.FastProgTorbpfFramesIn
	programEarlyFast = abi.FastProgTorbpfEarlyFast
)

// KindFrames is an uplink's XDP program, where there is a fast path.
const KindFrames = "frames"

// fastPrograms are those that other programs go on in (bpf/fast.bpf.c).
var fastPrograms = map[abi.DatapathFastProgram]string{
	abi.DatapathFastProgramFAST_OUT:       abi.FastProgTorbpfFastOut,
	abi.DatapathFastProgramFAST_PROVE_OUT: abi.FastProgTorbpfProveOut,
	abi.DatapathFastProgramFAST_PROVE_IN:  abi.FastProgTorbpfProveIn,
}

// fastMaps are the object's own. A generation begins with none of them filled: what was
// proven under another policy is not.
var fastMaps = []string{abi.FastMapFastFlows, abi.FastMapFastJudged, abi.FastMapFastPermits, abi.FastMapFastBudgets, abi.FastMapFastCounters}

// loadFast loads the fast path, where the plan wants one. A kernel that does not take it is
// no error, since everything goes the slow way then: NoFast tells why.
func (g *Generation) loadFast() error {
	if !g.plan.Fast {
		return nil
	}
	spec, err := abi.LoadFast()
	if err != nil {
		return fmt.Errorf("read BPF object: %w", err)
	}
	if err := setVariables(spec, g.plan); err != nil {
		return err
	}
	if err := setGeneration(spec, g.secret); err != nil {
		return err
	}
	fast, err := ebpf.NewCollectionWithOptions(spec, g.shareAll(spec))
	if errors.Is(err, ebpf.ErrNotSupported) && loadConntrack() == nil {
		fast, err = ebpf.NewCollectionWithOptions(spec, g.shareAll(spec))
	}
	if err != nil {
		g.noFast = fmt.Sprintf("this kernel cannot have it, it takes Linux 5.18 with BTF of nf_conntrack: %v", err)
		return nil
	}
	defer fast.Close()
	for slot, name := range fastPrograms {
		if err := g.collection.Maps[abi.DatapathMapFastPrograms].Put(uint32(slot), fast.Programs[name]); err != nil {
			return fmt.Errorf("write %s to map %s: %w", name, abi.DatapathMapFastPrograms, err)
		}
	}
	for _, name := range []string{programFastIn, programFramesIn, programEarlyFast} {
		g.collection.Programs[name] = fast.DetachProgram(name)
	}
	for _, name := range fastMaps {
		g.collection.Maps[name] = fast.DetachMap(name)
	}
	return nil
}

// loadConntrack has the kernel load its module of conntrack, by a question that it asks. The functions that the fast path
// calls are the module's, and after a boot nobody else may have needed it yet.
func loadConntrack() error {
	const (
		subsystem = 1 // NFNL_SUBSYS_CTNETLINK
		getStats  = 5 // IPCTNL_MSG_CT_GET_STATS
	)
	question := nl.NewNetlinkRequest(subsystem<<8|getStats, unix.NLM_F_ACK)
	question.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	_, err := question.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// shareAll has the object use all maps of the generation that it knows as well.
func (g *Generation) shareAll(spec *ebpf.CollectionSpec) ebpf.CollectionOptions {
	shared := make(map[string]*ebpf.Map)
	for name, m := range spec.Maps {
		theirs := g.collection.Maps[name]
		if theirs == nil || constants(name) {
			continue
		}
		if isListMap(name) {
			fitList(m, theirs)
		}
		fitMap(m, theirs)
		shared[name] = theirs
	}
	return ebpf.CollectionOptions{MapReplacements: shared}
}

// NoFast says why this kernel can have no fast path; "" if it has, or nobody has tried.
func (g *Generation) NoFast() string { return g.noFast }

// HasFast tells whether the programs of the fast path are there.
func (g *Generation) HasFast() bool { return g.collection.Programs[programFastIn] != nil }

// fast tells whether answers may come in by an uplink past the slow path.
func (g *Generation) fast(u plan.Uplink) bool {
	return u.Ethernet && g.HasFast()
}

// attachFast attaches what takes in answers. It comes before the LAN programs: of what these
// have not judged it knows nothing.
func (g *Generation) attachFast() error {
	for _, u := range g.plan.Uplinks {
		if !g.fast(u) {
			continue
		}
		if err := g.attach(newHook(KindFast, u.Index), programFastIn); err != nil {
			return err
		}
		if err := g.attachFrames(u); err != nil {
			return err
		}
	}
	return nil
}

// attachFrames attaches an uplink's XDP program where the plan wants one. Where it cannot be
// had answers go by tc, so no port for frames is there, and that is all.
func (g *Generation) attachFrames(u plan.Uplink) error {
	h := newHook(KindFrames, u.Index)
	if u.Frames != plan.EarlyNative {
		return removeLink(g.datapath.linkPin(h.pin()))
	}
	err := g.attachXDP(h, programFramesIn, link.XDPDriverMode)
	switch {
	case errors.Is(err, errNoXDP):
		return nil
	case err != nil:
		return fmt.Errorf("attach %s to %s: %w", programFramesIn, u.Name, err)
	}
	g.early = append(g.early, h)
	return nil
}

// TakesFrames tells whether an XDP program of ours is attached to an interface in the driver.
func (d *Datapath) TakesFrames(ifindex int) (bool, error) {
	for _, kind := range []string{KindEarlyNative, KindFrames} {
		there, err := d.hasXDP(newHook(kind, ifindex))
		if there || err != nil {
			return there, err
		}
	}
	return false, nil
}

// PermitFast lets the fast path be used for so long, from now on; 0 ends it. What was proven
// before since does not count any more, and is proven anew by the next packet. UDP may go as
// frames between the ports, of which each has an XDP program.
func (d *Datapath) PermitFast(since, lasts time.Duration, ports ...plan.Link) error {
	m, err := d.openMap(abi.FastMapFastPermits)
	if err != nil {
		return err
	}
	defer m.Close()
	now, err := kernel.Monotonic()
	if err != nil {
		return err
	}
	permit := abi.FastFastPermit{SinceNs: uint64(since), UntilNs: uint64(now + lasts)}
	if lasts == 0 {
		permit.UntilNs = 0
	}
	for i, port := range ports[:min(len(ports), len(permit.Ports))] {
		permit.Ports[i].Ifindex = uint32(port.Index)
		permit.Ports[i].Mac.Addr = port.MAC
	}
	if err := m.Put(uint32(0), permit); err != nil {
		return fmt.Errorf("write to map %s: %w", abi.FastMapFastPermits, err)
	}
	return nil
}

// Fast is what goes by the fast path.
type Fast struct {
	Loaded    bool   // the programs are there
	Permitted bool   // now
	Out, In   uint64 // packets that have gone by it
}

// Fast tells what the fast path does; of a generation without one that is nothing.
func (d *Datapath) Fast() (f Fast, err error) {
	m, err := d.openMap(abi.FastMapFastPermits)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer m.Close()
	var permit abi.FastFastPermit
	if err := m.Lookup(uint32(0), &permit); err != nil {
		return f, fmt.Errorf("read map %s: %w", abi.FastMapFastPermits, err)
	}
	now, err := kernel.Monotonic()
	if err != nil {
		return f, err
	}
	f.Loaded, f.Permitted = true, permit.UntilNs > uint64(now)
	counters, err := d.openMap(abi.FastMapFastCounters)
	if err != nil {
		return f, err
	}
	defer counters.Close()
	f.Out, err = countFast(counters, abi.DatapathFastWayFAST_WAY_OUT)
	if err != nil {
		return f, err
	}
	f.In, err = countFast(counters, abi.DatapathFastWayFAST_WAY_IN)
	return f, err
}

func countFast(m *ebpf.Map, way abi.DatapathFastWay) (uint64, error) {
	var perCPU []abi.DatapathCounter
	if err := m.Lookup(uint32(way), &perCPU); err != nil {
		return 0, fmt.Errorf("read map %s: %w", abi.FastMapFastCounters, err)
	}
	var packets uint64
	for _, c := range perCPU {
		packets += c.Packets
	}
	return packets, nil
}
