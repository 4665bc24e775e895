package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// sharedMaps outlive a generation, as do those of lists (Lists); all others are filled anew
// for each.
var sharedMaps = []string{
	abi.DatapathMapLans, abi.DatapathMapGates, abi.DatapathMapTorListeners,
	abi.DatapathMapCounters, abi.DatapathMapRefusals, abi.DatapathMapAllowances, abi.DatapathMapInboundFlows,
	abi.DatapathMapDomainSlots, abi.DatapathMapDomainFlows, abi.DatapathMapAskers, abi.DatapathMapDeviceTraffic, abi.DatapathMapDirectHosts, abi.DatapathMapClientSockets, abi.DatapathMapClientTargets, abi.DatapathMapTransTargets, abi.DatapathMapCutFlows, abi.DatapathMapPast4Prefixes, abi.DatapathMapPast6Prefixes,
}

// A prefix map has a twin for the other family.
var (
	dstPrefixes   = twins{abi.DatapathMapDst4Prefixes, abi.DatapathMapDst6Prefixes}
	portPrefixes  = twins{abi.DatapathMapPort4Prefixes, abi.DatapathMapPort6Prefixes}
	srcPrefixes   = twins{abi.DatapathMapSrc4Prefixes, abi.DatapathMapSrc6Prefixes}
	localPrefixes = twins{abi.DatapathMapLocal4Prefixes, abi.DatapathMapLocal6Prefixes}
	pastPrefixes  = twins{abi.DatapathMapPast4Prefixes, abi.DatapathMapPast6Prefixes}
)

// twins are the names of the maps for IPv4 and IPv6.
type twins [2]string

// trieSlack is room beyond what a plan needs: before Linux 6.13 an LPM trie
// refuses to replace an entry when it is full.
const trieSlack = 64

// sizeMaps grows the maps of a spec to what the plan needs.
func sizeMaps(spec *ebpf.CollectionSpec, p *plan.Plan) {
	grow := func(name string, entries int) {
		if want := uint32(entries + trieSlack); want > spec.Maps[name].MaxEntries {
			spec.Maps[name].MaxEntries = want
		}
	}
	for names, kind := range map[twins]config.Kind{
		dstPrefixes: config.KindDestination, srcPrefixes: config.KindSource, portPrefixes: config.KindPort,
	} {
		for _, name := range names {
			grow(name, len(p.Rules.Of(kind)))
		}
	}
	for _, name := range localPrefixes {
		grow(name, len(plan.Reserved())+len(p.Local)+len(p.LANs))
	}
	grow(abi.DatapathMapLocalAddrs, len(p.LocalAddrs))
	sizeTargets(spec, p)
	if p.Client == nil {
		return
	}
	grow(abi.DatapathMapLink6Prefixes, len(p.Client.OnLink))
	for _, name := range []string{abi.DatapathMapClientUsers, abi.DatapathMapClientCgroups, abi.DatapathMapClientPrograms} {
		grow(name, len(p.Client.Identities))
	}
}

// fillMaps writes a plan into the maps of a generation. Nothing uses them yet
// but the shared one of the LANs, from which nothing is taken here.
func fillMaps(maps map[string]*ebpf.Map, p *plan.Plan) error {
	steps := []func(map[string]*ebpf.Map, *plan.Plan) error{
		fillSettings, fillRules, fillIdentities, fillOwn, fillOnLink, fillLocal, fillAddrs, fillLANs,
	}
	for _, step := range steps {
		if err := step(maps, p); err != nil {
			return err
		}
	}
	return nil
}

func fillSettings(maps map[string]*ebpf.Map, p *plan.Plan) error {
	s := abi.DatapathSettings{
		LocalMode:   abi.LocalModeOf(p.LocalMode),
		ExemptMarks: uint32(len(p.ExemptMarks())),
		LateMarks:   setting(len(p.ExemptMarks()) > 0),
		Inbound:     setting(p.Inbound),
		TimeServer:  setting(p.TimeServer),
		Sources:     setting(len(p.Rules.Of(config.KindSource)) > 0),
		Devices:     setting(len(p.Rules.Of(config.KindDevice)) > 0),
		Services:    setting(len(p.Rules.Of(config.KindPort)) > 0),
		TorPorts:    setting(slices.ContainsFunc(p.Rules.Of(config.KindPort), keepsPort)),
		Exits:       setting(len(p.Exits) > 0),
		Domains:     setting(len(p.Rules.Of(config.KindDomain)) > 0),
		Lists:       setting(len(p.Lists) > 0),
		Client:      clientMode(p),
		OwnMarks:    ownMarks(p),
	}
	if p.Onion4.IsValid() {
		addr := p.Onion4.Masked().Addr().As4()
		s.Onion4AddrBe = binary.NativeEndian.Uint32(addr[:])
		mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Onion4.Bits()))
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
	s.Shorten(contents(p))
	if err := maps[abi.DatapathMapSettings].Put(uint32(0), s); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// contents is what fillAddrs, fillLocal and fillRules write.
func contents(p *plan.Plan) abi.Contents {
	c := abi.Contents{Router: p.LocalAddrs, Local: localSubnets(p)}
	for _, r := range p.Rules.Of(config.KindDestination) {
		c.Destinations = append(c.Destinations, r.Prefix)
	}
	c.IsLAN = func(ifindex uint32) bool { return isLAN(p, int(ifindex)) }
	return c
}

// keepsPort says whether a rule keeps a port with Tor, now or when it has ended; a fragment
// might hide that one.
func keepsPort(r config.Rule) bool {
	return r.Service.HasPorts() && (r.Policy == config.PolicyTor || r.Beneath != nil)
}

func fillLocal(maps map[string]*ebpf.Map, p *plan.Plan) error {
	for prefix, subnet := range localSubnets(p) {
		if err := putPrefix(maps, localPrefixes, prefix, subnet); err != nil {
			return err
		}
	}
	return nil
}

// localSubnets sets the least important first, since of two entries for the
// same prefix the later one stays: reserved space, then the local subnets from the
// last to the first, which is the one that the plan means. Those of LANs follow
// the others: a subnet that a LAN shares with another interface must not make
// its hosts' sources foreign.
func localSubnets(p *plan.Plan) map[netip.Prefix]abi.DatapathLocalSubnet {
	subnets := make(map[netip.Prefix]abi.DatapathLocalSubnet)
	for _, prefix := range plan.Reserved() {
		subnets[prefix.Masked()] = abi.DatapathLocalSubnet{Reserved: 1}
	}
	for _, ofLANs := range []bool{false, true} {
		for _, l := range slices.Backward(p.Local) {
			if isLAN(p, l.Index) == ofLANs {
				subnets[l.Prefix.Masked()] = abi.DatapathLocalSubnet{Ifindex: uint32(l.Index), Reserved: setting(plan.Private(l.Prefix))}
			}
		}
	}
	addLinkLocal(subnets, p)
	return subnets
}

func isLAN(p *plan.Plan, index int) bool {
	return slices.ContainsFunc(p.LANs, func(l plan.LAN) bool { return l.Index == index })
}

// addLinkLocal gives link-local space to a LAN. As a destination it is judged
// before this map is asked; as a source it is how the program knows that a LAN
// uses IPv4's, and all that the DNS guard of an old kernel has to tell a client
// that asks from its link-local address.
func addLinkLocal(subnets map[netip.Prefix]abi.DatapathLocalSubnet, p *plan.Plan) {
	for _, l := range p.LANs {
		for _, prefix := range l.Prefixes {
			if prefix.Addr().IsLinkLocalUnicast() {
				subnets[prefix.Masked()] = abi.DatapathLocalSubnet{Ifindex: uint32(l.Index), Reserved: 1}
			}
		}
	}
}

// fillOnLink writes whom this machine may ask for, and answer, as a neighbour.
func fillOnLink(maps map[string]*ebpf.Map, p *plan.Plan) error {
	if p.Client == nil {
		return nil
	}
	for _, l := range p.Client.OnLink {
		key := abi.DatapathLinkPrefix6{
			Prefixlen: 32 + uint32(l.Prefix.Bits()), Ifindex: uint32(l.Index), Addr: l.Prefix.Addr().As16(),
		}
		if err := maps[abi.DatapathMapLink6Prefixes].Put(key, uint8(1)); err != nil {
			return fmt.Errorf("write %s of %s to map %s: %w", l.Prefix, l.Name, abi.DatapathMapLink6Prefixes, err)
		}
	}
	return nil
}

// fillAddrs writes the router's own addresses, and which of them are the
// broadcast address of a subnet: DNS to those would reach the router's resolver
// without passing the DNS guard.
func fillAddrs(maps map[string]*ebpf.Map, p *plan.Plan) error {
	for _, addr := range p.LocalAddrs {
		kind := abi.LocalAddrRouter
		if slices.Contains(p.Broadcasts, addr) {
			kind = abi.LocalAddrBroadcast
		}
		key := abi.DatapathAddress{Addr: addr.As16()}
		if err := maps[abi.DatapathMapLocalAddrs].Put(key, uint8(kind)); err != nil {
			return fmt.Errorf("write router address %s: %w", addr, err)
		}
	}
	return nil
}

// fillLANs adds the LANs of the plan to the shared map.
func fillLANs(maps map[string]*ebpf.Map, p *plan.Plan) error {
	for _, l := range p.LANs {
		lan := abi.DatapathLan{}
		if l.Addr4.Is4() {
			addr := l.Addr4.As4()
			lan.Addr4Be = binary.NativeEndian.Uint32(addr[:])
		}
		if l.Addr6.Is6() {
			lan.Addr6 = l.Addr6.As16()
		}
		if err := maps[abi.DatapathMapLans].Put(uint32(l.Index), lan); err != nil {
			return fmt.Errorf("write LAN %s: %w", l.Name, err)
		}
	}
	for _, index := range p.WaitingFor { // no program is on them yet, but the guards know them
		if err := maps[abi.DatapathMapLans].Put(uint32(index), abi.DatapathLan{}); err != nil {
			return fmt.Errorf("write interface %d, which is waited for: %w", index, err)
		}
	}
	return nil
}

// unknownLANs names the LANs of a plan that the shared map lacks.
func unknownLANs(m *ebpf.Map, p *plan.Plan) ([]string, error) {
	var unknown []string
	for _, l := range p.LANs {
		var lan abi.DatapathLan
		err := m.Lookup(uint32(l.Index), &lan)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			unknown = append(unknown, l.Name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up LAN %s: %w", l.Name, err)
		}
	}
	return unknown, nil
}

// forgetLANs takes all others out of it. The guards no longer watch these, so
// it comes last, when they are LANs no more.
func forgetLANs(m *ebpf.Map, p *plan.Plan) error {
	var index uint32
	var lan abi.DatapathLan
	var gone []uint32
	entries := m.Iterate()
	for entries.Next(&index, &lan) {
		if !isLAN(p, int(index)) && !slices.Contains(p.WaitingFor, int(index)) {
			gone = append(gone, index)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("list LANs: %w", err)
	}
	for _, index := range gone {
		if err := m.Delete(index); err != nil {
			return fmt.Errorf("forget LAN %d: %w", index, err)
		}
	}
	return nil
}

func putPrefix(maps map[string]*ebpf.Map, names twins, prefix netip.Prefix, value any) error {
	name := names[1]
	if prefix.Addr().Is4() {
		name = names[0]
	}
	if err := maps[name].Put(prefixKey(prefix), value); err != nil {
		return fmt.Errorf("write %s to map %s: %w", prefix, name, err)
	}
	return nil
}

func prefixKey(prefix netip.Prefix) any {
	if prefix.Addr().Is4() {
		addr := prefix.Addr().As4()
		return abi.DatapathPrefix4{Prefixlen: uint32(prefix.Bits()), AddrBe: binary.NativeEndian.Uint32(addr[:])}
	}
	return abi.DatapathPrefix6{Prefixlen: uint32(prefix.Bits()), Addr: prefix.Addr().As16()}
}

// eachPrefix lists a prefix map of either family.
func eachPrefix[V any](m *ebpf.Map, fn func(netip.Prefix, V) error) error {
	var value V
	var key4 abi.DatapathPrefix4
	var key6 abi.DatapathPrefix6
	key, prefix := any(&key6), func() netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom16(key6.Addr), int(key6.Prefixlen))
	}
	if int(m.KeySize()) == binary.Size(key4) {
		key, prefix = &key4, func() netip.Prefix {
			var addr [4]byte
			binary.NativeEndian.PutUint32(addr[:], key4.AddrBe)
			return netip.PrefixFrom(netip.AddrFrom4(addr), int(key4.Prefixlen))
		}
	}
	entries := m.Iterate()
	for entries.Next(key, &value) {
		if err := fn(prefix(), value); err != nil {
			return err
		}
	}
	return entries.Err()
}

func setting(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}
