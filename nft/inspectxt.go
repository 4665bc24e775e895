package nft

import (
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Two of the states of iptables' match (xt_conntrack.h).
const (
	xtStateNew       = 1 << 3
	xtStateUntracked = 1 << 6
)

// match tells whether a condition of iptables-nft's holds, as far as it is a common one.
func (i *inspection) match(e *expr.Match) (holds, known bool) {
	switch info := e.Info.(type) {
	case *xt.Comment:
		return true, true
	case *xt.ConntrackMtinfo1:
		return i.ofState(info.MatchFlags, info.InvertFlags, uint16(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return i.ofState(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.ConntrackMtinfo3:
		return i.ofState(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.Tcp:
		const ports = xt.TcpInvSrcPorts | xt.TcpInvDestPorts
		if i.packet.protocol != unix.IPPROTO_TCP {
			return false, true
		}
		if info.Option != 0 || info.FlagsMask != 0 || info.InvFlags&^ports != 0 {
			return false, false
		}
		return i.ports(info.SrcPorts, info.DstPorts, info.InvFlags&xt.TcpInvSrcPorts != 0, info.InvFlags&xt.TcpInvDestPorts != 0), true
	case *xt.Udp:
		if i.packet.protocol != unix.IPPROTO_UDP {
			return false, true
		}
		return i.ports(info.SrcPorts, info.DstPorts, info.InvFlags&xt.UdpInvSrcPorts != 0, info.InvFlags&xt.UdpInvDestPorts != 0), true
	}
	return false, false
}

// ofState is about the first packet of a flow.
func (i *inspection) ofState(flags, inverted, states uint16) (holds, known bool) {
	state := uint16(xtStateNew)
	if i.ctNone {
		state = xtStateUntracked
	}
	if flags&^uint16(xt.ConntrackState|xt.ConntrackStateAlias) != 0 {
		return false, false
	}
	return (states&state != 0) != (inverted&uint16(xt.ConntrackState) != 0), true
}

func (i *inspection) ports(src, dst [2]uint16, notSrc, notDst bool) bool {
	within := func(r [2]uint16, port uint16) bool { return r[0] <= port && port <= r[1] }
	return within(src, i.port(sourcePort)) != notSrc && within(dst, i.port(destinationPort)) != notDst
}
