package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

func TestManyDestinations(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	const many = 20000
	for i := range uint32(many) {
		addr4 := binary.BigEndian.AppendUint32(nil, 0x50000000+i<<8)
		v4, _ := netip.AddrFromSlice(addr4)
		v6, _ := netip.AddrFromSlice(append([]byte{0x2a, 0x10, 0, 0}, append(addr4, make([]byte, 8)...)...))
		p.Rules = append(p.Rules, config.DirectPrefixes(config.KindDestination, netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64))...)
	}
	began := time.Now()
	apply(t, d, p)
	took := time.Since(began)
	t.Logf("%d prefixes of each family took %v", many, took)
	if took > 30*time.Second {
		t.Errorf("%d prefixes took %v", many, took)
	}
	s, server := l.newSender(t), l.newCapture(t)
	for i := range 2 { // the first prefix and the last
		to := fmt.Sprintf("80.%d.%d.9:7000", i*(many-1)>>8, i*(many-1)&0xff)
		server.arrives(t, s, datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(to)})
	}
}

// An older version left maps of another shape, which the new programs cannot
// take over; counters and gates of the same shape they do.
func TestSharedMapOfAnotherShapeIsBegunAnew(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, mode.clsact)
			apply(t, d, l.plan())
			before := mapIDs(t, d)
			older := []string{abi.DatapathMapCounters, abi.DatapathMapLans}
			for _, name := range older {
				pinOlder(t, d, name)
			}
			apply(t, d, l.plan())
			after := mapIDs(t, d)
			for _, name := range sharedMaps {
				kept := after[name] == before[name]
				if olderOne := name == older[0] || name == older[1]; kept == olderOne {
					t.Errorf("map %s was kept: %t", name, kept)
				}
			}
			expectSameMaps(t, d, after)
			lan, wan := l.lan.Attrs().Index, l.wan.Attrs().Index
			s := l.newSender(t)
			l.newCapture(t).arrives(t, s, directUDP)
			counted(t, d, s, refusedUDP, lan, abi.VerdictRefused, abi.ReasonUDP)
			counted(t, d, s, torTCP, wan, abi.VerdictRefused, abi.ReasonUplinkGuard) // it knows the LAN
		})
	}
}

func pinOlder(t *testing.T, d *Datapath, name string) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	defer m.Close()
	must(t, os.Remove(d.mapPin(name)))
	must(t, m.Pin(d.mapPin(name)))
}

// expectSameMaps checks that the programs use the pinned maps and no others.
func expectSameMaps(t *testing.T, d *Datapath, pinned map[string]ebpf.MapID) {
	t.Helper()
	for _, id := range programIDs(t, d) {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		must(t, err)
		info, err := p.Info()
		must(t, err)
		must(t, p.Close())
		used, _ := info.MapIDs()
		for _, id := range used {
			m, err := ebpf.NewMapFromID(id)
			must(t, err)
			mapInfo, err := m.Info()
			must(t, err)
			must(t, m.Close())
			if !constants(mapInfo.Name) && pinned[mapInfo.Name] != id {
				t.Errorf("%s uses map %s with id %d, pinned is %d", info.Name, mapInfo.Name, id, pinned[mapInfo.Name])
			}
		}
	}
}

func TestWhatProgramsCountAndTheGateOutliveAGeneration(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	if _, err := d.GatesOpen(1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the gate of nothing: %v", err)
	}
	g := guards(t, d, l.plan())
	must(t, g.AttachLANs())
	expectGate(t, d, false)
	must(t, g.collection.Maps[abi.DatapathMapGates].Put(uint32(0), gateOpen))
	s := l.newSender(t)
	lan := l.lan.Attrs().Index
	counted(t, d, s, refusedUDP, lan, abi.VerdictRefused, abi.ReasonUDP)

	must(t, guards(t, d, l.plan()).AttachLANs())
	expectGate(t, d, true)
	counted(t, d, s, refusedUDP, lan, abi.VerdictRefused, abi.ReasonUDP)
	if n := packets(t, d, lan, abi.VerdictRefused, abi.ReasonUDP); n != 2 {
		t.Errorf("%d packets are counted, want those of both generations", n)
	}
}

func expectGate(t *testing.T, d *Datapath, want bool) {
	t.Helper()
	open, err := d.GatesOpen(1)
	must(t, err)
	if open[0] != want {
		t.Errorf("the gate is open: %t, want %t", open, want)
	}
}

func TestCountersOfNothingAreNone(t *testing.T) {
	l := newLab(t)
	counters, err := l.open(t, false).Counters()
	if err != nil || len(counters) > 0 {
		t.Errorf("counters are %v, %v", counters, err)
	}
}

// pinnedMaps is how many maps bpf/maps.h, bpf/shared.h, bpf/identity.h, bpf/link.h and
// bpf/target.h declare, pinnedPrograms how many of the programs of bpf/torbpf.bpf.c the lab's plan needs, with one of
// the two DNS guards.
const (
	pinnedMaps     = 47
	pinnedPrograms = 4
)

// Pins of maps and programs that this version has no more would only mislead.
func TestPinsOfAnOlderVersionGo(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	m, err := d.openMap(abi.DatapathMapLans)
	must(t, err)
	defer m.Close()
	for _, name := range []string{"forgotten", newPrefix + "lans"} {
		clone, err := m.Clone()
		must(t, err)
		must(t, clone.Pin(d.mapPin(name)))
		must(t, clone.Close())
	}
	apply(t, d, l.plan())
	if ids := mapIDs(t, d); len(ids) != pinnedMaps {
		t.Errorf("pinned maps are %v", ids)
	}
}

// The guards watch a LAN as long as its program may still pass packets on.
func TestLANThatLeavesThePlanIsForgottenLast(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	index := uint32(l.lan.Attrs().Index)
	p := l.plan()
	p.LANs[0] = plan.LAN{Name: "wan0", Index: l.wan.Attrs().Index, Ethernet: true}
	p.Uplinks = nil
	g := guards(t, d, p)
	expectLANs(t, d, index, uint32(p.LANs[0].Index))
	must(t, g.AttachLANs())
	expectLANs(t, d, uint32(p.LANs[0].Index))
	want := l.attachments(false)[:2]
	want[0].Ifindex, want[1].Ifindex = p.LANs[0].Index, p.LANs[0].Index
	expectAttachments(t, d, want)
}

func TestTheFirstOfTwoSubnetsIsMeant(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	prefix := netip.MustParsePrefix("192.168.77.0/24")
	for index := range 3 {
		p.Local = append(p.Local, plan.LocalSubnet{Prefix: prefix, Index: 70 + index})
	}
	g := guards(t, d, p)
	var subnet abi.DatapathLocalSubnet
	key := abi.DatapathPrefix4{Prefixlen: 32, AddrBe: binary.NativeEndian.Uint32([]byte{192, 168, 77, 9})}
	must(t, g.collection.Maps[abi.DatapathMapLocal4Prefixes].Lookup(key, &subnet))
	if subnet.Ifindex != 70 {
		t.Errorf("the subnet is behind %d, want 70", subnet.Ifindex)
	}
}

func TestTooManyMarksAreAnError(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	for i := range uint32(17) {
		p.Rules = append(p.Rules, config.DirectMarks(config.Mark{Value: i + 1, Mask: 0xffff})...)
	}
	_, err := d.ApplyGuards(p)
	if err == nil || !strings.Contains(err.Error(), "one more than the 16") {
		t.Errorf("error is %v", err)
	}
}

func TestOnlyLackOfPrivilegeAsksForRoot(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{unix.EPERM, true},
		{&ebpf.VerifierError{Cause: unix.EACCES}, false},
		{unix.ENOMEM, false},
	} {
		err := explainLoad(c.err)
		if told := strings.Contains(err.Error(), "as root"); told != c.want || errors.Is(err, kernel.ErrMissing) != c.want {
			t.Errorf("%v is explained as %v", c.err, err)
		}
	}
}

func TestBpftoolReadsThePins(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	counted(t, d, l.newSender(t), refusedUDP, l.lan.Attrs().Index, abi.VerdictRefused, abi.ReasonUDP)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"map dump pinned " + d.mapPin("settings"), []string{`"onion4_addr_be"`, `"local_mode": "LOCAL_CONNECTED"`}},
		{"map dump pinned " + d.mapPin("counters"), []string{`"verdict": "VERDICT_REFUSED"`, `"reason": "REASON_UDP"`, `"packets": 1`}},
		{"map dump pinned " + d.mapPin("lans"), []string{`"addr4_be"`}},
		{"map dump pinned " + d.mapPin("gates"), []string{`"open": 1`}},
		{"map dump pinned " + d.mapPin("dst4_prefixes"), []string{`"prefixlen": 24`, `"policy": "POLICY_DIRECT"`}},
		{"prog show pinned " + d.programPin("torbpf_lan"), []string{"sched_cls", "name torbpf_lan", "btf_id"}},
		{"prog show pinned " + d.programPin("torbpf_uplink"), []string{"name torbpf_uplink"}},
	} {
		out, err := exec.Command("bpftool", strings.Fields(c.args)...).CombinedOutput()
		if err != nil {
			t.Errorf("bpftool %s: %v: %s", c.args, err, out)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("bpftool %s says nothing of %s:\n%s", c.args, want, out)
			}
		}
	}
}

// TestUplinksKnowTheRulesOfTheMachineItself apart from those of LANs: its exempt marks, and
// the interfaces that it may leave by.
func TestUplinksKnowTheRulesOfTheMachineItself(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	p.Client = &plan.Client{All: true, Rules: config.Rules{
		config.Direct(config.Entry{Kind: config.KindPort, Service: config.Service{Protocol: 17, Port: 123}}),
		config.Direct(config.Entry{Kind: config.KindMark, Mark: config.Mark{Value: 0x100, Mask: 0xff00}}),
		config.Direct(config.Entry{Kind: config.KindInterface, Interface: "vpn0"}),
	}}
	p.Client.Exits = []plan.Exit{{Name: "vpn0", Index: 77, Rule: 2}, {Name: "vpn1", Rule: 2}}
	g := guards(t, d, p)
	var s abi.DatapathSettings
	must(t, g.collection.Maps[abi.DatapathMapSettings].Lookup(uint32(0), &s))
	var mark abi.DatapathExemptMark
	must(t, g.collection.Maps[abi.DatapathMapOwnMarks].Lookup(uint32(0), &mark))
	if s.OwnMarks != 1 || s.ExemptMarks != uint32(len(p.ExemptMarks())) || mark.Value != 0x100 || mark.Mask != 0xff00 || mark.Rule.Id != 1 {
		t.Errorf("%d own marks, %d of LANs, the first %+v", s.OwnMarks, s.ExemptMarks, mark)
	}
	var exit abi.DatapathRule
	must(t, g.collection.Maps[abi.DatapathMapOwnExits].Lookup(uint32(77), &exit))
	if exit.Id != 2 || exit.Policy != abi.PolicyDirect {
		t.Errorf("the exit is %+v", exit)
	}
	if err := g.collection.Maps[abi.DatapathMapExits].Lookup(uint32(77), &exit); err == nil {
		t.Error("LANs may leave by it, too")
	}
}
