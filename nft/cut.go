package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"

	"github.com/torbpf/torbpf/internal/plan"
)

// cutChunk elements go into one transaction.
const cutChunk = 4096

// AddCut makes the router deaf to the peers of flows that are about to be cut:
// else a packet of theirs would be answered by a reset from the router, or
// would begin the flow anew as one from outside, whose replies may leave in
// clear. Call it before deleting the flows from conntrack. Flows of protocols
// without ports are left out: nothing tells theirs apart.
func AddCut(flows []plan.Flow) error { return addCut(flows, plan.CutTime) }

func addCut(flows []plan.Flow, timeout time.Duration) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for name, elements := range cutElements(flows, timeout) {
		s := cutSet(name, nftables.TypeIPAddr)
		s.Table = table()
		for chunk := range slices.Chunk(elements, cutChunk) {
			if err := conn.SetAddElements(s, chunk); err != nil {
				return fmt.Errorf("write elements of set %s: %w", name, err)
			}
			if err := conn.Flush(); err != nil {
				return fmt.Errorf("cut off the peers of %d flows (set %s): %w", len(chunk), name, explain(err))
			}
		}
	}
	return nil
}

// Cut lists the flows whose peers are ignored, for a copy of theirs that was lost; none
// where there is no table. The kernel may rearrange a large set under the listing: then
// some are missing.
func Cut() ([]plan.Flow, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	if t, err := findTable(conn); err != nil || t == nil {
		return nil, err
	}
	sets, err := listSets(conn)
	if err != nil {
		return nil, err
	}
	var flows []plan.Flow
	for _, name := range []string{setCut4, setCut6} {
		if sets[name] == nil {
			continue
		}
		elements, err := conn.GetSetElements(sets[name])
		if err != nil {
			return nil, fmt.Errorf("list elements of set %s: %w", name, err)
		}
		for _, e := range elements {
			if f, ok := cutFlow(e.Key); ok {
				flows = append(flows, f)
			}
		}
	}
	return flows, nil
}

// cutSet describes a set of reply tuples. Its own timeout is for elements that
// somebody adds by hand: none stays for ever.
func cutSet(name string, address nftables.SetDatatype) *nftables.Set {
	port := nftables.TypeInetService
	return &nftables.Set{
		Name: name, KeyType: nftables.MustConcatSetType(address, port, address, port, nftables.TypeInetProto),
		Concatenation: true, HasTimeout: true, Timeout: plan.CutTime, Comment: "peer and router of flows that were cut",
	}
}

// cutElements sorts the reply tuples into the sets of their families.
func cutElements(flows []plan.Flow, timeout time.Duration) map[string][]nftables.SetElement {
	elements := make(map[string][]nftables.SetElement)
	for _, f := range flows {
		peer, router := f.ReplySrc.Addr().Unmap(), f.ReplyDst.Addr().Unmap()
		if !f.HasPorts() || !peer.IsValid() || peer.BitLen() != router.BitLen() {
			continue
		}
		name := setCut6
		if peer.Is4() {
			name = setCut4
		}
		elements[name] = append(elements[name], nftables.SetElement{Key: cutKey(peer, router, f), Timeout: timeout})
	}
	return elements
}

// cutFlow reads what cutKey writes: of the flow only what the WAN sees.
func cutFlow(key []byte) (plan.Flow, bool) {
	const port, protocol = 4, 4
	size := (len(key) - 2*port - protocol) / 2
	if size != 4 && size != 16 {
		return plan.Flow{}, false
	}
	end := func(b []byte) netip.AddrPort {
		addr, _ := netip.AddrFromSlice(b[:size])
		return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[size:]))
	}
	peer, router := end(key), end(key[size+port:])
	return plan.Flow{
		Protocol: key[2*(size+port)], Src: router, Dst: peer, ReplySrc: peer, ReplyDst: router,
	}, true
}

// cutKey is laid out as the rule in chain cut_peers loads it.
func cutKey(peer, router netip.Addr, f plan.Flow) []byte {
	return slices.Concat(
		peer.AsSlice(), portKey(f.ReplySrc.Port()),
		router.AsSlice(), portKey(f.ReplyDst.Port()),
		protocolKey(f.Protocol))
}
