package abi

import (
	"encoding/binary"
	"net/netip"
)

// AskerSlots is how many entries the map askers has.
const AskerSlots = uint32(DatapathDomainLimitASKER_SLOTS)

// AskerKey is what the sentry knows of who sent it something.
type AskerKey struct {
	Addr     netip.AddrPort // unmapped
	ID       uint16         // of the DNS message by UDP; 0 by TCP
	Protocol uint8
}

// AskerPlace is where the map askers says who that was, as asker_place() of bpf/asker.h
// has it.
func AskerPlace(k AskerKey) uint32 {
	addr := k.Addr.Addr().As16()
	words := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(addr[:], k.Addr.Port()), k.ID)
	return uint32(hashWords(binary.NativeEndian.AppendUint32(words, uint32(k.Protocol)))>>54) % AskerSlots
}

// Key returns what an entry is about. An entry that is Whole counts, and no other.
func (a DatapathAsker) Key() AskerKey {
	return AskerKey{
		Addr:     netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), fromNetwork(a.PortBe)),
		ID:       fromNetwork(a.IdBe),
		Protocol: uint8(a.Protocol),
	}
}

// Whole tells an entry that the program wrote in one piece, by asker_check() of
// bpf/asker.h, from parts of several.
func (a DatapathAsker) Whole() bool {
	words, err := binary.Append(nil, binary.NativeEndian, a)
	return err == nil && a.Check == hashWords(words[binary.Size(a.Check):])
}

func fromNetwork(be uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, be))
}
