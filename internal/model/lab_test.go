package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// lanIndex is the interface the programs run on: the loopback device, which
// every network namespace has.
const lanIndex = 1

// guestIndex is another LAN, on which no program runs.
const guestIndex = 6

// What a tc program returns (linux/pkt_cls.h).
const (
	actNext     = 0xffffffff
	actShot     = 2
	actRedirect = 7
)

// objects are the programs and maps of one load of bpf/.
type objects struct {
	tb      testing.TB
	progs   map[string]*ebpf.Program
	maps    map[string]*ebpf.Map
	mark    plan.Mark
	tors    int
	handing bool // TCP is handed to sockets of tors
	// counts are the packets of each counter as compare last saw them.
	counts map[counted]uint64
	told   map[uint32]bool // slots of domain_slots in use
	trees  bool            // lists are put into trees, as long ones are
}

// enterNamespace moves the calling test into a new network namespace. The
// thread is never unlocked, so the runtime ends it with the test.
func enterNamespace(tb testing.TB) {
	tb.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatalf("unshare network namespace: %v; run as root", err)
	}
}

// ports are Tor's and the sentry's in all tests but those of the ports.
var ports = plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054}

// load loads all programs, with our bits of the mark at shift.
func load(tb testing.TB, shift uint8) *objects { return loadPorts(tb, shift, ports) }

func loadPorts(tb testing.TB, shift uint8, ports plan.Ports) *objects {
	tb.Helper()
	return loadWith(tb, shift, plan.Plan{Ports: ports}, 100)
}

// loadTors loads all programs for so many tors.
func loadTors(tb testing.TB, shift uint8, tors int) *objects {
	tb.Helper()
	return loadWith(tb, shift, plan.Plan{Ports: ports, Instances: tors}, 100)
}

// loadWith loads all programs for the tors and the ports of a plan, with room for lists of so
// many prefixes.
func loadWith(tb testing.TB, shift uint8, p plan.Plan, listed uint32) *objects {
	tb.Helper()
	spec, err := abi.LoadDatapath()
	if err != nil {
		tb.Fatal(err)
	}
	var trans, dns [abi.MaxInstances]uint16
	tors := p.Tors()
	for i, t := range tors {
		trans[i], dns[i] = t.Trans, t.DNS
	}
	var handing uint32
	if p.TProxy {
		handing = 1
	}
	for name, value := range map[string]any{
		abi.DatapathVarTproxy:    handing,
		abi.DatapathVarMarkShift: uint32(shift), abi.DatapathVarInstances: uint32(len(tors)), abi.DatapathVarTransPorts: trans,
		abi.DatapathVarDnsPorts: dns, abi.DatapathVarResolverPort: p.Ports.Resolver,
		abi.DatapathVarGeneration: uint64(generation),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			tb.Fatal(err)
		}
	}
	for _, name := range []string{"list4_prefixes", "list6_prefixes", "list4_nodes", "list6_nodes", "list4_ends", "list6_ends"} {
		spec.Maps[name].MaxEntries = listed
	}
	if err := rlimit.RemoveMemlock(); err != nil { // it counts BPF memory before 5.11
		tb.Fatalf("lift the limit on locked memory: %v; run as root", err)
	}
	coll, err := ebpf.NewCollection(spec)
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) && olderThan(tb, 5, 17) {
		delete(spec.Programs, abi.DatapathProgTorbpfDns) // needs to know the interface
		coll, err = ebpf.NewCollection(spec)
	}
	if err != nil {
		tb.Fatalf("load the BPF programs: %+v; run as root", err)
	}
	tb.Cleanup(coll.Close)
	o := &objects{tb: tb, progs: coll.Programs, maps: coll.Maps, mark: plan.Mark{Shift: shift}, tors: len(tors), handing: p.TProxy, counts: make(map[counted]uint64)}
	o.put("lans", uint32(lanIndex), abi.DatapathLan{
		Addr4Be: be4(routerAddr4), Addr6: routerAddr6.As16(),
	})
	o.put("lans", uint32(guestIndex), abi.DatapathLan{})
	return o
}

// The addresses from which the router sends ICMP errors.
var (
	routerAddr4 = netip.MustParseAddr("192.168.1.1")
	routerAddr6 = netip.MustParseAddr("fd00:1::1")
)

func be4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func bePort(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

func (o *objects) put(name string, key, value any) {
	o.tb.Helper()
	if err := o.maps[name].Put(key, value); err != nil {
		o.tb.Fatalf("write %v to map %s: %v", key, name, err)
	}
}

// clear empties a map that is not an array. The keys are taken first: an LPM
// trie that is changed under an iteration may skip some.
func clear[K any](o *objects, name string) {
	o.tb.Helper()
	var key K
	var keys []K
	for next := any(nil); o.maps[name].NextKey(next, &key) == nil; next = key {
		keys = append(keys, key)
	}
	for _, key := range keys {
		if err := o.maps[name].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			o.tb.Fatalf("clear map %s: %v", name, err)
		}
	}
}

// set makes the maps hold a policy and nothing else.
func (o *objects) set(p *Policy) {
	o.tb.Helper()
	p.OurMark, p.Instances = o.mark, o.tors
	for _, name := range []string{"dst4_prefixes", "src4_prefixes", "local4_prefixes", "list4_prefixes"} {
		clear[abi.DatapathPrefix4](o, name)
	}
	for _, name := range []string{"dst6_prefixes", "src6_prefixes", "local6_prefixes", "list6_prefixes"} {
		clear[abi.DatapathPrefix6](o, name)
	}
	clear[abi.DatapathService4](o, "port4_prefixes")
	clear[abi.DatapathService6](o, "port6_prefixes")
	clear[abi.DatapathMac](o, "devices")
	clear[uint64](o, "domains")
	clear[abi.DatapathFlow](o, "domain_flows")
	clear[abi.DatapathAddress](o, "local_addrs")
	clear[abi.DatapathFlow](o, "inbound_flows")
	o.setSettings(p)
	for _, e := range p.Destinations {
		o.putPrefix("dst", e.Prefix, ruleOf(e, e.Prefix.Bits()))
	}
	for _, e := range p.Sources {
		o.putPrefix("src", e.Prefix, ruleOf(e, e.Prefix.Bits()))
	}
	for _, e := range p.Services {
		o.putService(e)
	}
	o.setLists(listOf(p))
	for mac, d := range p.Devices {
		o.put("devices", abi.DatapathMac{Addr: mac}, ruleOf(PrefixPolicy{Policy: d.Policy, Ended: d.Ended, Then: d.Then}, 0))
	}
	o.setDomains(p)
	for _, l := range p.Local {
		o.putPrefix("local", l.Prefix, abi.DatapathLocalSubnet{Ifindex: uint32(l.Index), Reserved: flag(plan.Private(l.Prefix))})
	}
	for _, a := range p.Addrs {
		o.put("local_addrs", abi.DatapathAddress{Addr: a.As16()}, uint8(abi.LocalAddrRouter))
	}
	for _, a := range p.Broadcasts {
		o.put("local_addrs", abi.DatapathAddress{Addr: a.As16()}, uint8(abi.LocalAddrBroadcast))
	}
	for i, m := range p.Exempt {
		o.put("exempt_marks", uint32(i), abi.DatapathExemptMark{Value: m.Value, Mask: m.Mask})
	}
	o.put("own_marks", uint32(0), abi.DatapathExemptMark{Value: ownMark, Mask: ownMark})
	for f := range p.Flows {
		o.put("inbound_flows", inboundKey(f), abi.DatapathInboundSeen{TimeNs: 1})
	}
	for i := range o.tors {
		o.put("gates", uint32(i), abi.DatapathGate{Open: flag(p.ready(i))})
	}
}

// ruleOf is a rule of a map whose keys have that many bits, if they are prefixes. One
// that has ended did so long ago; of the others every second one has still to end. So it is
// with what is beneath it; where nothing is, every second one had something that has ended.
func ruleOf(e PrefixPolicy, bits int) abi.DatapathRule {
	r := abi.DatapathRule{Policy: e.Policy, Prefixlen: uint32(bits)}
	const past, future = 1, 1 << 62
	if e.Ended {
		r.UntilNs = past
	} else if bits%2 == 0 {
		r.UntilNs = future
	}
	switch odd := bits%2 == 1; {
	case e.Then != nil && odd:
		r.Then, r.ThenUntilNs = *e.Then, abi.ForEver
	case e.Then != nil:
		r.Then, r.ThenUntilNs = *e.Then, future
	case odd:
		r.Then, r.ThenUntilNs = abi.PolicyBlock, past
	}
	return r
}

// setDomains writes the names that are excluded, and what devices were told of any.
func (o *objects) setDomains(p *Policy) {
	o.tb.Helper()
	for i := range abi.DomainSlots {
		if o.told[i] {
			o.put("domain_slots", i, abi.DatapathDomainSlot{})
		}
	}
	o.told = make(map[uint32]bool)
	for _, domain := range p.Domains {
		o.put("domains", abi.DomainKey(domain), ruleOf(PrefixPolicy{Policy: abi.PolicyDirect}, 0))
	}
	for a, domain := range p.Answers {
		device := abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: a.Device}}
		place := abi.DomainPlace(device, a.Addr.As16())
		for o.told[place] {
			place = (place + 1) % abi.DomainSlots
		}
		o.told[place] = true
		o.put("domain_slots", place, abi.DatapathDomainSlot{UntilNs: 1 << 62, Domain: abi.DomainKey(domain), Device: device, Addr: a.Addr.As16()})
	}
	for f, domain := range p.NameFlows {
		o.put("domain_flows", inboundKey(f.InboundFlow), abi.DatapathDomainFlow{Domain: abi.DomainKey(domain), SeenNs: 1 << 62, Mac: abi.DatapathMac{Addr: f.Device}})
	}
}

func (o *objects) putService(e ServicePolicy) {
	o.tb.Helper()
	const before = 32 // bits of protocol and port
	bits := before + e.Prefix.Bits()
	rule := ruleOf(e.PrefixPolicy, bits)
	if e.Prefix.Addr().Is4() {
		o.put("port4_prefixes", abi.DatapathService4{Prefixlen: uint32(bits), Protocol: e.Service.Protocol, PortBe: bePort(e.Service.Port), AddrBe: be4(e.Prefix.Addr())}, rule)
		return
	}
	o.put("port6_prefixes", abi.DatapathService6{Prefixlen: uint32(bits), Protocol: e.Service.Protocol, PortBe: bePort(e.Service.Port), Addr: e.Prefix.Addr().As16()}, rule)
}

func (o *objects) setSettings(p *Policy) {
	o.tb.Helper()
	s := abi.DatapathSettings{
		LocalMode:   p.LocalMode,
		ExemptMarks: uint32(len(p.Exempt)),
		LateMarks:   flag(p.LateMarks),
		Inbound:     flag(p.Inbound),
		TimeServer:  flag(p.TimeServer),
		Sources:     flag(len(p.Sources) > 0),
		Services:    flag(len(p.Services) > 0),
		TorPorts:    flag(p.torPorts()),
		Domains:     flag(len(p.Domains) > 0),
		Devices:     flag(len(p.Devices) > 0),
		Lists:       flag(p.Lists != nil),
		Client:      p.Client,
		OwnMarks:    flag(p.Client != abi.ClientNone),
	}
	if p.Onion4.IsValid() {
		mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Onion4.Bits()))
		s.Onion4AddrBe = be4(p.Onion4.Masked().Addr())
		s.Onion4MaskBe = binary.NativeEndian.Uint32(mask)
		s.Onion4Prefixlen = uint32(p.Onion4.Bits())
	}
	if p.Onion6.IsValid() {
		addr := p.Onion6.Masked().Addr().As16()
		for i := range s.Onion6WordsBe {
			s.Onion6WordsBe[i] = binary.NativeEndian.Uint32(addr[4*i:])
		}
		s.Onion6Prefixlen = uint32(p.Onion6.Bits())
	}
	contents := abi.Contents{Router: slices.Concat(p.Addrs, p.Broadcasts), Local: make(map[netip.Prefix]abi.DatapathLocalSubnet)}
	for _, l := range p.Local {
		contents.Local[l.Prefix] = abi.DatapathLocalSubnet{Ifindex: uint32(l.Index)}
	}
	for _, e := range p.Destinations {
		contents.Destinations = append(contents.Destinations, e.Prefix)
	}
	contents.IsLAN = func(ifindex uint32) bool { return ifindex == lanIndex || ifindex == guestIndex }
	s.Shorten(contents)
	o.put("settings", uint32(0), s)
}

func (o *objects) putPrefix(kind string, prefix netip.Prefix, value any) {
	o.tb.Helper()
	if prefix.Addr().Is4() {
		o.put(kind+"4_prefixes", abi.DatapathPrefix4{Prefixlen: uint32(prefix.Bits()), AddrBe: be4(prefix.Addr())}, value)
		return
	}
	o.put(kind+"6_prefixes", abi.DatapathPrefix6{Prefixlen: uint32(prefix.Bits()), Addr: prefix.Addr().As16()}, value)
}

func inboundKey(f InboundFlow) abi.DatapathFlow {
	return abi.DatapathFlow{
		NearAddr: f.LAN.Addr().As16(), PeerAddr: f.Peer.Addr().As16(),
		NearPortBe: bePort(f.LAN.Port()), PeerPortBe: bePort(f.Peer.Port()),
		Protocol: uint32(f.Protocol),
	}
}

func flag(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

// counted is one key of the counters.
type counted struct {
	ifindex uint32
	verdict abi.Verdict
	reason  abi.Reason
}

// tally returns the sum over all CPUs of every counter.
func (o *objects) tally() map[counted]abi.DatapathCounter {
	o.tb.Helper()
	out := make(map[counted]abi.DatapathCounter)
	var key abi.DatapathCounterKey
	var values []abi.DatapathCounter
	entries := o.maps["counters"].Iterate()
	for entries.Next(&key, &values) {
		out[counted{key.Ifindex, key.Verdict, key.Reason}] = sumCounters(values)
	}
	if err := entries.Err(); err != nil {
		o.tb.Fatalf("list counters: %v", err)
	}
	return out
}

func sumCounters(values []abi.DatapathCounter) abi.DatapathCounter {
	var sum abi.DatapathCounter
	for _, v := range values {
		sum.Packets += v.Packets
		sum.Bytes += v.Bytes
	}
	return sum
}

// decode reads a value as the kernel wrote it.
func decode[V any](t *testing.T, raw []byte) V {
	t.Helper()
	var value V
	if _, err := binary.Decode(raw, binary.NativeEndian, &value); err != nil {
		t.Fatalf("decode %d bytes: %v", len(raw), err)
	}
	return value
}

// monotonic is the clock of the programs, in nanoseconds.
func monotonic(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatalf("read the monotonic clock: %v", err)
	}
	return uint64(now.Nano())
}

// olderThan says whether the running kernel is older than a version. What an
// old kernel lacks a test may go without; a new one must have it.
func olderThan(tb testing.TB, major, minor int) bool {
	tb.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		tb.Fatalf("read the kernel's version: %v", err)
	}
	var x, y int
	release := unix.ByteSliceToString(name.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &x, &y); err != nil {
		tb.Fatalf("read the kernel's version %q: %v", release, err)
	}
	return x < major || x == major && y < minor
}
