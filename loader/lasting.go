package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// What lasts for a while after a change ends by itself, at a time that is written
// beside it and that the programs compare with the clock.

// AddCut makes the programs deaf to the far ends of flows that are about to be cut,
// and the router silent towards them, for plan.CutTime: as nft.AddCut does, but
// whatever becomes of nftables. Call it before the flows are deleted from conntrack.
// It returns how many flows there was no room for.
func (d *Datapath) AddCut(flows []plan.Flow) (left int, err error) {
	m, err := d.openMap(abi.DatapathMapCutFlows)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	return addCut(m, flows)
}

// AddCut is that of a Datapath before the generation's maps are pinned.
func (g *Generation) AddCut(flows []plan.Flow) (left int, err error) {
	return addCut(g.collection.Maps[abi.DatapathMapCutFlows], flows)
}

// LostCut tells whether the generation knows nothing of flows that were cut before it,
// since their map was gone.
func (g *Generation) LostCut() bool { return g.lostCut }

func addCut(m *ebpf.Map, flows []plan.Flow) (left int, err error) {
	now, err := kernel.BootTime()
	if err != nil {
		return 0, err
	}
	if err := forgetCut(m, now); err != nil {
		return 0, err
	}
	for _, f := range flows {
		if !f.HasPorts() {
			continue
		}
		asTheDeviceSees := flowKey(f.Src, f.Dst, f.Protocol)
		asTheWANDoes := flowKey(f.ReplyDst, f.ReplySrc, f.Protocol)
		err := errors.Join(m.Put(asTheDeviceSees, lasting(now)), m.Put(asTheWANDoes, lasting(now)))
		switch {
		case errors.Is(err, unix.E2BIG):
			left++
		case err != nil:
			return 0, fmt.Errorf("write to map %s: %w", abi.DatapathMapCutFlows, err)
		}
	}
	return left, nil
}

// Cut lists the flows that the programs take for cut, for a copy of theirs that was
// lost: of each the far end, and the near one, as the device saw it or as the WAN does.
func (d *Datapath) Cut() ([]plan.Flow, error) {
	m, err := d.openMap(abi.DatapathMapCutFlows)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	now, err := kernel.BootTime()
	if err != nil {
		return nil, err
	}
	keys, _, err := listCut(m, now)
	var flows []plan.Flow
	for _, k := range keys {
		near := netip.AddrPortFrom(netip.AddrFrom16(k.NearAddr).Unmap(), swap(k.NearPortBe))
		peer := netip.AddrPortFrom(netip.AddrFrom16(k.PeerAddr).Unmap(), swap(k.PeerPortBe))
		flows = append(flows, plan.Flow{Protocol: uint8(k.Protocol), Src: near, Dst: peer, ReplySrc: peer, ReplyDst: near})
	}
	return flows, err
}

// listCut tells those whose time has not come from those whose time is over.
func listCut(m *ebpf.Map, now time.Duration) (keep, over []abi.DatapathFlow, err error) {
	var key abi.DatapathFlow
	var deadline abi.DatapathDeadline
	entries := m.Iterate()
	for entries.Next(&key, &deadline) {
		if expired(deadline, now) {
			over = append(over, key)
		} else {
			keep = append(keep, key)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, nil, fmt.Errorf("list map %s: %w", abi.DatapathMapCutFlows, err)
	}
	return keep, over, nil
}

// forgetCut takes out whose time is over.
func forgetCut(m *ebpf.Map, now time.Duration) error {
	_, over, err := listCut(m, now)
	if err != nil {
		return err
	}
	for _, key := range over {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from map %s: %w", abi.DatapathMapCutFlows, err)
		}
	}
	return nil
}

func flowKey(near, peer netip.AddrPort, protocol uint8) abi.DatapathFlow {
	port := func(a netip.AddrPort) uint16 {
		return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, a.Port()))
	}
	return abi.DatapathFlow{
		NearAddr: near.Addr().As16(), PeerAddr: peer.Addr().As16(),
		NearPortBe: port(near), PeerPortBe: port(peer),
		Protocol: uint32(protocol),
	}
}

// rememberLANs has the uplink guards take the subnets that LANs had before this plan,
// and have not by it, for a LAN's for plan.CutTime more: the router may still have
// something to say to a device there, which would take the default route. What an
// uplink has by now is left out. All of them end at once, so that none inside another
// hides it.
func (d *Datapath) rememberLANs(maps map[string]*ebpf.Map, p *plan.Plan) error {
	now, err := kernel.BootTime()
	if err != nil {
		return err
	}
	gone, err := d.goneFromLANs(maps[abi.DatapathMapLans], p)
	if err != nil {
		return err
	}
	past := gone
	for _, name := range pastPrefixes {
		kept, err := forgetPast(maps[name], p, now)
		if err != nil {
			return err
		}
		past = append(past, kept...)
	}
	if len(gone) == 0 {
		return nil
	}
	for _, f := range past {
		if err := putPrefix(maps, pastPrefixes, f, lasting(now)); err != nil {
			return err
		}
	}
	return nil
}

// goneFromLANs returns the subnets that the generation which is pinned takes for a
// LAN's, and the plan does not.
func (d *Datapath) goneFromLANs(lans *ebpf.Map, p *plan.Plan) ([]netip.Prefix, error) {
	var gone []netip.Prefix
	have := p.LANPrefixes()
	for _, name := range localPrefixes {
		m, err := d.openMap(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = eachPrefix(m, func(prefix netip.Prefix, subnet abi.DatapathLocalSubnet) error {
			var lan abi.DatapathLan
			err := lans.Lookup(subnet.Ifindex, &lan)
			stays := func(have netip.Prefix) bool { return config.PrefixCovers(have, prefix) }
			if errors.Is(err, ebpf.ErrKeyNotExist) || slices.ContainsFunc(have, stays) || outside(p, prefix) {
				return nil
			}
			gone = append(gone, prefix)
			return err
		})
		m.Close()
		if err != nil {
			return nil, fmt.Errorf("read the subnets of LANs from map %s: %w", name, err)
		}
	}
	return gone, nil
}

// forgetPast takes out of a map what is over or has become an uplink's, and returns
// what stays.
func forgetPast(m *ebpf.Map, p *plan.Plan, now time.Duration) ([]netip.Prefix, error) {
	var kept, over []netip.Prefix
	err := eachPrefix(m, func(prefix netip.Prefix, deadline abi.DatapathDeadline) error {
		if expired(deadline, now) || outside(p, prefix) {
			over = append(over, prefix)
		} else {
			kept = append(kept, prefix)
		}
		return nil
	})
	for _, prefix := range over {
		err = errors.Join(err, m.Delete(prefixKey(prefix)))
	}
	if err != nil {
		return nil, fmt.Errorf("forget former subnets of LANs: %w", err)
	}
	return kept, nil
}

// outside tells whether a prefix may be an uplink's neighbourhood; link-local
// addresses always are.
func outside(p *plan.Plan, prefix netip.Prefix) bool {
	return prefix.Addr().IsLinkLocalUnicast() || slices.ContainsFunc(p.Outside, prefix.Overlaps)
}

func lasting(now time.Duration) abi.DatapathDeadline {
	return abi.DatapathDeadline{UntilNs: uint64(now + plan.CutTime)}
}

func expired(d abi.DatapathDeadline, now time.Duration) bool { return d.UntilNs <= uint64(now) }
