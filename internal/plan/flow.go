package plan

import (
	"net/netip"
	"time"
)

// CutTime is how long the peer of a flow that was cut is ignored, and how long a
// subnet is remembered that a LAN had: longer than a peer keeps on about a TCP
// connection that no longer answers.
const CutTime = 10 * time.Minute

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

// HasPorts tells whether ports tell this flow from others of its protocol.
func (f Flow) HasPorts() bool { return f.ReplySrc.Port() != 0 }
