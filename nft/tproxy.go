package nft

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// chainAnswersUntracked is chainUntracked for what tor sends back.
const chainAnswersUntracked = "untracked_out"

// ofTor matches what the programs have handed to tor's socket, and what that sends: it has
// the class from the socket.
func (b *builder) ofTor() []expr.Any {
	return markIs(b.class(abi.VerdictTor), b.Mark.Class(abi.VerdictTorBits))
}

// untrackedChains keep conntrack from what needs no NAT. What may answer a connection from
// outside has another class, and is tracked.
func (b *builder) untrackedChains() []chain {
	if !b.TProxy {
		return nil
	}
	return []chain{
		baseChain(chainUntracked, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, plan.PriorityUntracked,
			newRule("handed to tor's socket", b.ofTor(), fromLAN(), []expr.Any{&expr.Notrack{}})),
		baseChain(chainAnswersUntracked, nftables.ChainTypeFilter, nftables.ChainHookOutput, plan.PriorityUntracked,
			newRule("from tor's socket, in the name of a site", b.ofTor(), []expr.Any{&expr.Notrack{}})),
	}
}

// handedRules let in what a socket in the name of others has: tor's, which the programs have
// handed it to. Whatever else listens at that port is not to have it.
func (b *builder) handedRules() []rule {
	if !b.TProxy {
		return nil
	}
	return []rule{newRule("handed to tor's socket", b.ofTor(), fromLAN(), ofTransparentSocket(), accept())}
}

// ofTransparentSocket matches what a socket has that answers in the name of others, or
// a connection that it has accepted or that is over (nft: socket transparent 1).
func ofTransparentSocket() []expr.Any {
	return []expr.Any{&expr.Socket{Key: expr.SocketKeyTransparent, Register: reg1}, equal([]byte{1})}
}

// answersOfTor send what tor's sockets answer where it is judged.
func (b *builder) answersOfTor() []rule {
	if !b.TProxy {
		return nil
	}
	rules := []rule{newRule("from tor's socket, in the name of a site", b.ofTor(), goTo(chainOutputPorts))}
	for _, p := range config.MergePrefixes(b.LANPrefixes()) {
		if !p.Addr().IsLinkLocalUnicast() {
			rules = append(rules, newRule("that a device is gone, to the site in whose name tor has sent there", quotesTCPTo(p), goTo(chainOutputReports)))
		}
	}
	return rules
}

// chainOutputReports judges what the kernel says of packets of tor's: that goes to their source, which is
// the site.
const chainOutputReports = "output_reports"

func (b *builder) reportChains() []chain {
	if !b.TProxy {
		return nil
	}
	return []chain{subChain(chainOutputReports,
		newRule("a device is told", toLAN(), accept()),
		newRule("the router itself", toLoopback(), accept()),
		newRule("about a connection that conntrack knows, so none of tor's", ctStateIn(expr.CtStateBitRELATED), accept()),
		newRule("the WAN would learn whom a device talked to", drop(DroppedAnswer)))}
}

// quotesTCPTo matches ICMP that quotes TCP to somewhere.
func quotesTCPTo(p netip.Prefix) []expr.Any {
	const header = 8
	f, i, protocolOffset := ipv4, icmp4, uint32(9)
	if p.Addr().Is6() {
		f, i, protocolOffset = ipv6, icmp6, 6
	}
	return slices.Concat(isFamily(f), protocol(i.number),
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, header+protocolOffset, 1, reg1), equal([]byte{unix.IPPROTO_TCP})},
		[]expr.Any{
			payload(expr.PayloadBaseTransportHeader, header+f.destination, f.size, reg1),
			and(net.CIDRMask(p.Bits(), int(f.size)*8)), equal(p.Masked().Addr().AsSlice()),
		})
}
