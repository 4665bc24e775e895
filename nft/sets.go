package nft

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// The sets and maps of the table.
const (
	setLANs    = "lans"
	setExits   = "exits"
	setLocal4  = "local4"
	setLocal6  = "local6"
	setCut4    = "cut4"
	setCut6    = "cut6"
	setSettle  = "settling"
	setPorts   = "ports"
	mapDivert  = "diversions"
	mapForward = "verdicts"
)

// classes is how many values a nibble of the mark has: the size of a map by one.
// With its size known, the kernel chooses its fastest hash.
const classes = 16

func (b *builder) sets() ([]set, error) {
	lans, err := b.lanSet()
	if err != nil {
		return nil, err
	}
	local := b.Local
	if b.LocalMode == config.LocalNone {
		local = nil
	}
	local4, err := subnetSet(setLocal4, nftables.TypeIPAddr, netip.Addr.Is4, local)
	if err != nil {
		return nil, err
	}
	local6, err := subnetSet(setLocal6, nftables.TypeIP6Addr, netip.Addr.Is6, local)
	if err != nil {
		return nil, err
	}
	client, err := b.clientSets()
	return slices.Concat([]set{
		lans, local4, local6,
		{Set: cutSet(setCut4, nftables.TypeIPAddr)},
		{Set: cutSet(setCut6, nftables.TypeIP6Addr)},
		b.settlingSet(),
		b.exitSet(),
		b.portSet(),
		b.classMap(mapDivert, b.diversions()),
		b.classMap(mapForward, b.forwardVerdicts()),
	}, b.uplinkSet(), b.torMaps(), client), err
}

// lanSet goes by name, so that an interface that was deleted and came back is
// still known; one that was renamed is known to the tc program on it. Its size is
// that of the BPF map of that name: if it followed the number of LANs, one more
// would make it another set.
func (b *builder) lanSet() (set, error) {
	names := b.BlockedNames()
	if !b.hasLANs() && b.Client == nil {
		return set{}, errors.New("the plan has no LAN interface: name one")
	}
	slices.Sort(names)
	var elements []nftables.SetElement
	for _, name := range slices.Compact(names) {
		key, err := ifname(name)
		if err != nil {
			return set{}, err
		}
		elements = append(elements, nftables.SetElement{Key: key})
	}
	return set{
		Set: &nftables.Set{
			Name: setLANs, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian,
			Size: abi.MaxLANs, Comment: "interfaces that are torified, or will be",
		},
		elements: elements,
	}, nil
}

// exitSet holds the interfaces by which class via may leave.
func (b *builder) exitSet() set {
	var names []string
	for _, e := range b.Exits {
		names = append(names, e.Name)
	}
	return interfaceSet(setExits, "interfaces that packets may leave by directly", names)
}

// interfaceSet holds names that config or the kernel has checked.
func interfaceSet(name, comment string, interfaces []string) set {
	s := set{Set: &nftables.Set{
		Name: name, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian,
		Size: abi.MaxLANs, Comment: comment,
	}}
	for _, i := range interfaces {
		s.elements = append(s.elements, nftables.SetElement{Key: paddedName(i)})
	}
	return s
}

// settlingSet holds the LANs that have just been attached. Without a stateful rule
// of the user's the kernel tracks nothing until our table is there: a flow that a
// LAN began before then looks as if the peer began it whose packet comes first,
// and for most protocols nothing in that packet says otherwise.
func (b *builder) settlingSet() set {
	s := set{Set: &nftables.Set{
		Name: setSettle, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian,
		HasTimeout: true, Timeout: plan.CutTime, Comment: "interfaces whose flows may be older than our table",
	}}
	for _, name := range b.fresh {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, name) // one of b.LANs, whose names lanSet has checked
		s.elements = append(s.elements, nftables.SetElement{Key: key, Timeout: plan.CutTime})
	}
	s.keeps = func(key []byte) bool {
		name := unix.ByteSliceToString(key)
		return slices.Contains(b.LANNames(), name) && !slices.Contains(b.fresh, name)
	}
	return s
}

// subnetSet holds which subnets of one family lie behind which interface. The
// kernel refuses a prefix inside another of the same interface, so only the
// outermost are kept.
func subnetSet(name string, address nftables.SetDatatype, family func(netip.Addr) bool, subnets []plan.LocalSubnet) (set, error) {
	s := set{Set: &nftables.Set{
		Name: name, KeyType: nftables.MustConcatSetType(nftables.TypeIFName, address),
		Concatenation: true, Interval: true, Comment: "subnets and the interface that leads to them",
	}}
	for _, subnet := range outermost(subnets) {
		if !family(subnet.Prefix.Addr()) {
			continue
		}
		key, err := ifname(subnet.Name)
		if err != nil {
			return set{}, err
		}
		first, last := bounds(subnet.Prefix)
		s.elements = append(s.elements, nftables.SetElement{
			Key: slices.Concat(key, first), KeyEnd: slices.Concat(key, last),
		})
	}
	return s, nil
}

// outermost sorts the subnets of each interface and leaves out those inside
// another. Two prefixes are nested or disjoint, never anything between.
func outermost(subnets []plan.LocalSubnet) []plan.LocalSubnet {
	sorted := slices.Clone(subnets)
	for i := range sorted {
		sorted[i].Prefix = sorted[i].Prefix.Masked()
	}
	slices.SortFunc(sorted, func(a, b plan.LocalSubnet) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), a.Prefix.Addr().Compare(b.Prefix.Addr()), a.Prefix.Bits()-b.Prefix.Bits())
	})
	var out []plan.LocalSubnet
	for _, s := range sorted {
		if n := len(out); n > 0 && out[n-1].Name == s.Name && out[n-1].Prefix.Contains(s.Prefix.Addr()) {
			continue
		}
		out = append(out, s)
	}
	return out
}

// bounds returns the first and the last address of a masked prefix.
func bounds(p netip.Prefix) (first, last []byte) {
	first = p.Addr().AsSlice()
	last = slices.Clone(first)
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return first, last
}

// portSet holds what listens on the router for diverted packets.
func (b *builder) portSet() set {
	s := set{Set: &nftables.Set{
		Name: setPorts, KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		Concatenation: true, Comment: "tor and the sentry",
	}}
	add := func(protocol uint8, port uint16) {
		s.elements = append(s.elements, nftables.SetElement{Key: slices.Concat(protocolKey(protocol), portKey(port))})
	}
	for _, t := range b.Tors() {
		add(unix.IPPROTO_TCP, t.Trans)
		add(unix.IPPROTO_UDP, t.DNS)
	}
	add(unix.IPPROTO_TCP, b.Ports.Resolver)
	add(unix.IPPROTO_UDP, b.Ports.Resolver)
	s.Size = uint32(len(s.elements))
	return s
}

// classMap leads from a class to a verdict; a class without one falls through
// to the rule behind the lookup.
func (b *builder) classMap(name string, verdicts map[abi.Verdict]expr.Verdict) set {
	s := set{Set: &nftables.Set{
		Name: name, IsMap: true, KeyType: nftables.TypeMark, DataType: nftables.TypeVerdict,
		KeyByteOrder: binaryutil.NativeEndian, Size: classes, Comment: "by class",
	}}
	for class, verdict := range verdicts {
		s.elements = append(s.elements, nftables.SetElement{
			Key: binaryutil.NativeEndian.PutUint32(b.class(class)), VerdictData: &verdict,
		})
	}
	return s
}

// ifname is an interface name as the kernel compares it. A longer one would be
// cut short, match nothing, and thereby take its LAN out of every guard.
func ifname(name string) ([]byte, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("interface name %q: it must have 1 to %d bytes", name, unix.IFNAMSIZ-1)
	}
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return key, nil
}

// portKey and protocolKey are fields of a concatenation, padded to 32 bits.
func portKey(port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, port), 0, 0)
}

func protocolKey(protocol uint8) []byte { return []byte{protocol, 0, 0, 0} }
