package loader

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// frameSourcePort is the source port of frameTo.
const frameSourcePort = 40000

// frameTo is a UDP datagram of the client's to an IPv4 address.
func frameTo(dst string, port uint16) []byte {
	frame := append(make([]byte, 12), 0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0)
	frame = append(frame, netip.MustParseAddr(clientAddr).AsSlice()...)
	frame = append(frame, netip.MustParseAddr(dst).AsSlice()...)
	frame = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(frame, frameSourcePort), port)
	return append(frame, 0, 8, 0, 0)
}

// TestExplainerAsksTheGenerationInForce: its answers are those of the plan that was
// applied last, and it leaves nothing behind.
func TestExplainerAsksTheGenerationInForce(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	if _, err := d.Explainer(l.plan()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("explained what is not there: %v", err)
	}
	p := l.plan()
	apply(t, d, p)
	pins := pinnedNames(t, d)
	expectExplained(t, d, directAddr, abi.ReasonDirectDestination, p.Rules)
	expectExplained(t, d, otherAddr, abi.ReasonUDP, nil)

	p.Rules = config.DirectPrefixes(config.KindDestination, prefixes("62.10.7.0/24", "62.10.7.7/32")...)
	apply(t, d, p)
	expectExplained(t, d, directAddr, abi.ReasonUDP, nil)
	expectExplained(t, d, otherAddr, abi.ReasonDirectDestination, p.Rules[1:])
	if now := pinnedNames(t, d); !slices.Equal(now, pins) {
		t.Errorf("pinned are %v, before were %v", now, pins)
	}
	expectSameMaps(t, d, mapIDs(t, d))
}

func expectExplained(t *testing.T, d *Datapath, dst string, reason abi.Reason, by config.Rules) {
	t.Helper()
	e, err := d.Explainer(&plan.Plan{Mark: plan.Mark{Shift: 24}})
	must(t, err)
	defer e.Close()
	lan, err := net.InterfaceByName("lan0")
	must(t, err)
	said, err := e.Judge(plan.LAN{Index: lan.Index, Ethernet: true}, frameTo(dst, 7000), 0)
	must(t, err)
	if said.Reason != reason {
		t.Errorf("to %s: explained as %s, want %s", dst, said.Reason, reason)
	}
	m, ok, err := e.Destination(netip.MustParseAddr(dst))
	must(t, err)
	rule, known := m.Of(by)
	if ok != (len(by) > 0) || known != ok || ok && rule.Entry != by[0].Entry {
		t.Errorf("to %s: found %+v (%t), want the first of %v", dst, rule.Entry, known, by)
	}
}

func pinnedNames(t *testing.T, d *Datapath) []string {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(d.Dir(), "*", "*"))
	must(t, err)
	return pins
}

// TestAFlowBegunByNameIsItsDevices: of two with one address only who has begun the flow is
// let out, and only for that one is its rule found.
func TestAFlowBegunByNameIsItsDevices(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	const name = "bank.example"
	p.Rules = config.Rules{config.Direct(config.Entry{Kind: config.KindDomain, Domain: name})}
	apply(t, d, p)
	m, err := d.openMap(abi.DatapathMapDomainFlows)
	must(t, err)
	defer m.Close()
	owner, other := config.MAC{2, 0, 0, 0, 0, 1}, config.MAC{2, 0, 0, 0, 0, 2}
	const port = 7000
	flow := plan.Flow{
		Protocol: unix.IPPROTO_UDP,
		Src:      netip.AddrPortFrom(netip.MustParseAddr(clientAddr), frameSourcePort),
		Dst:      netip.AddrPortFrom(netip.MustParseAddr(otherAddr), port),
	}
	begun := abi.DatapathDomainFlow{Domain: abi.DomainKey(name), SeenNs: 1 << 62, Mac: abi.DatapathMac{Addr: owner}}
	must(t, m.Put(flowKey(flow.Src, flow.Dst, flow.Protocol), begun))

	e, err := d.Explainer(p)
	must(t, err)
	defer e.Close()
	lan, err := net.InterfaceByName("lan0")
	must(t, err)
	for _, c := range []struct {
		mac    config.MAC
		reason abi.Reason
	}{{owner, abi.ReasonDirectDomain}, {other, abi.ReasonUDP}} {
		frame := frameTo(otherAddr, port)
		copy(frame[6:], c.mac[:])
		said, err := e.Judge(plan.LAN{Index: lan.Index, Ethernet: true}, frame, 0)
		must(t, err)
		_, found, err := e.Domain(c.mac, flow)
		must(t, err)
		if direct := c.reason == abi.ReasonDirectDomain; said.Reason != c.reason || found != direct {
			t.Errorf("of %s: explained as %s, want %s; a name found: %t", c.mac, said.Reason, c.reason, found)
		}
	}
}
