package plan

import "net/netip"

// Flow is a connection as conntrack knows it, in the original direction, with
// the reply tuple that address translation may have made different.
type Flow struct {
	Protocol uint8
	Src, Dst netip.AddrPort // original direction; ports are 0 where the protocol has none
	ReplySrc netip.AddrPort // who answers
	ReplyDst netip.AddrPort // where the answer arrives: the masqueraded address
	DNAT     bool           // the destination was rewritten
	Mark     uint32         // connmark
}
