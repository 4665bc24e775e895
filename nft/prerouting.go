package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// The chains of packets that come in, and of connections that begin.
const (
	chainUntracked      = "untracked"
	chainClassify       = "classify"
	chainBeginnings     = "beginnings"
	chainCutPeers       = "cut_peers"
	chainInbound        = "inbound"
	chainAnswers        = "answers"
	chainOpenings       = "openings"
	chainLateMarks      = "late_marks"
	chainLateRefusal    = "late_refusal"
	chainDivert         = "divert"
	chainDivertTrans    = "divert_trans"
	chainDivertDNS      = "divert_dns"
	chainDivertResolver = "divert_resolver"
	chainDivertTime     = "divert_time"
	chainDivertUnjudged = "divert_unjudged"
)

// portDNSTLS is that of DNS over TLS, and over QUIC.
const portDNSTLS = 853

// Directions of a connection, as conntrack numbers them.
const (
	original = 0
	reply    = 1
)

// classifyChains look at a packet as soon as conntrack has. What runs without
// being inbound meets two comparisons here.
func (b *builder) classifyChains() []chain {
	notEstablished := expr.CtStateBitNEW | expr.CtStateBitINVALID | expr.CtStateBitUNTRACKED
	rules := []rule{
		newRule("of no connection so far", ctStateIn(notEstablished), jump(chainBeginnings)),
	}
	if !b.hasLANs() {
		return nil
	}
	if b.forwardsInbound() {
		rules = append(rules, newRule("of a connection that began outside", b.isInbound(), goTo(chainInbound)))
	}
	chains := []chain{
		baseChain(chainClassify, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, plan.PriorityClassify, rules...),
		subChain(chainBeginnings, b.beginningRules()...),
		subChain(chainCutPeers,
			newRule("an answer would be a packet in clear about a flow that was cut; so would be the flow, begun anew",
				cutTuple(ipv4), []expr.Any{in(setCut4)}, drop(DroppedCutPeer)),
			newRule("the same for IPv6", cutTuple(ipv6), []expr.Any{in(setCut6)}, drop(DroppedCutPeer))),
	}
	if b.forwardsInbound() {
		chains = append(chains, b.inboundChains()...)
	}
	return chains
}

// beginningRules see what conntrack knows no connection of. What is not judged, as tc is gone
// or the mark was wiped, is asked here who would be answered: chain forward comes too late.
func (b *builder) beginningRules() []rule {
	awaited := goTo(chainSourcesAwaited)
	if b.strict {
		awaited = leave()
	}
	return append(b.awaitedRules(awaited),
		newRule("from outside: it may be a peer that was cut off", notFromLAN(), goTo(chainCutPeers)),
		newRule("not judged: who would be answered", markIs(0, b.Mark.ClassMask()), goTo(chainSources)))
}

// forwardsInbound tells whether connections from outside may reach a LAN.
func (b *builder) forwardsInbound() bool { return b.Inbound && b.hasLANs() }

// cutTuple loads what cutKey lays out.
func cutTuple(f family) []expr.Any {
	words := f.size / 4
	return append(isFamily(f),
		payload(expr.PayloadBaseNetworkHeader, f.source, f.size, word(0)),
		payload(expr.PayloadBaseTransportHeader, sourcePort, 2, word(words)),
		payload(expr.PayloadBaseNetworkHeader, f.destination, f.size, word(words+1)),
		payload(expr.PayloadBaseTransportHeader, destinationPort, 2, word(2*words+1)),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word(2*words + 2)})
}

// inboundChains let a connection from outside have its replies. Only two
// classes give way: the rest of what tc says about a reply stands, DNS above
// all, or a stranger could open flows from port 53 and wait for queries.
func (b *builder) inboundChains() []chain {
	blocked := "tc could not know that it answers a connection from outside"
	return []chain{
		subChain(chainInbound,
			newRule("tc on the LAN learns from this class which replies to expect",
				ctDirection(original), notFromLAN(), b.markInbound()),
			newRule("what a LAN host begins itself, such as a data connection of FTP, stays what it is",
				ctDirection(reply), fromLAN(), goTo(chainAnswers))),
		subChain(chainAnswers,
			newRule("a LAN host that begins never answers: its SYN meets one sent from outside to catch it",
				tcpFlagsAre(tcpSYN, tcpSYN|tcpACK), setCtMark(^b.Mark.ClassMask(), 0), leave()),
			newRule(blocked, b.isClass(abi.VerdictTor), b.markInbound(), leave()),
			newRule(blocked, b.isClass(abi.VerdictPending), b.markInbound())),
		b.openings(),
	}
}

// openings remembers in the ct mark that a connection began outside and goes
// to a LAN. It is a nat chain, though it translates nothing: the kernel asks
// those about the first packet of a connection only. It sits behind routing,
// so that the router's own services and other networks keep their ct marks.
func (b *builder) openings() chain {
	handshake := byte(tcpFIN | tcpSYN | tcpRST | tcpACK)
	return baseChain(chainOpenings, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, plan.PriorityClassify,
		newRule("only what goes to a LAN", notToLAN(), leave()),
		newRule("a LAN began it", fromLAN(), leave()),
		newRule("the router began it", fromNowhere(), leave()),
		newRule("tc has classified it: it is from a LAN whose interface was renamed",
			markIsNot(0, b.Mark.ClassMask()), leave()),
		newRule("the middle of a connection that a LAN may have begun",
			tcpFlagsAreNot(tcpSYN, handshake), leave()),
		newRule("a LAN may have begun it before anything was tracked",
			toSettlingLAN(), notDNAT(), notProtocol(unix.IPPROTO_TCP), leave()),
		newRule("began outside, and the user's rules let it in",
			ctStateIn(expr.CtStateBitNEW),
			setCtMark(^b.Mark.ClassMask(), b.class(abi.VerdictInbound)), b.markInbound()))
}

// lateMarkChains exempt what the user's prerouting rules have marked by now.
// Our bits are cleared rather than set to direct: the user's ip rules may
// compare the whole mark.
func (b *builder) lateMarkChains() []chain {
	var rules []rule
	for _, m := range b.marks {
		for _, class := range []abi.Verdict{abi.VerdictTor, abi.VerdictTime, abi.VerdictPending} {
			rules = append(rules, newRule("exempt by a mark that the user's rules set after tc",
				markIs(m.value|b.class(class), m.mask|b.Mark.ClassMask()), before(m.until), fromLAN(), setMark(^b.Mark.Mask(), 0)))
		}
	}
	if len(rules) == 0 {
		return nil
	}
	return []chain{baseChain(chainLateMarks, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, plan.PriorityLateMarks, rules...)}
}

// diversions is where each class goes that is not forwarded.
func (b *builder) diversions() map[abi.Verdict]expr.Verdict {
	to := func(chain string) expr.Verdict { return expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }
	diversions := map[abi.Verdict]expr.Verdict{
		abi.VerdictDNS:      to(chainDivertDNS),
		abi.VerdictResolver: to(chainDivertResolver),
		abi.VerdictNone:     to(chainDivertUnjudged),
		abi.VerdictPending:  to(chainLateRefusal),
	}
	if !b.TProxy {
		diversions[abi.VerdictTor], diversions[abi.VerdictOnion] = to(chainDivertTrans), to(chainDivertTrans)
	}
	if b.TimeServer {
		diversions[abi.VerdictTime] = to(chainDivertTime)
	}
	return diversions
}

// lateRefusal ends what tc left open and neither conntrack nor a mark has let go.
// It is asked about the first packet of a connection, as all of nat: what goes on
// regardless ends in chain forward.
func lateRefusal() chain {
	told := "tc could not tell the sender; the kernel tells it, at most once a second"
	link := "a reset would look for this source by the default route"
	return subChain(chainLateRefusal,
		newRule(link, fromPrefix(netip.MustParsePrefix("fe80::/10")), drop(RefusedLate)),
		newRule(link, fromPrefix(netip.MustParsePrefix("169.254.0.0/16")), drop(RefusedLate)),
		newRule(told, protocol(unix.IPPROTO_TCP), reject(RefusedLate, unix.NFT_REJECT_TCP_RST, 0)),
		newRule(told, reject(RefusedLate, unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_PORT_UNREACH)))
}

// divertChains send connections to tor and to the sentry. Whatever is not
// diverted here and has a blocked class ends in chain forward.
func (b *builder) divertChains() []chain {
	tcp, udp := protocol(unix.IPPROTO_TCP), protocol(unix.IPPROTO_UDP)
	unjudged := []rule{
		newRule("DNS without a class: tc is gone or the mark was wiped, still it is Tor's",
			udp, toPort(config.PortDNS), goTo(chainDivertDNS)),
		newRule("DNS without a class: tc is gone or the mark was wiped, still it is Tor's",
			tcp, toPort(config.PortDNS), redirect(b.Ports.Resolver)),
	}
	for _, t := range b.Tors() {
		for _, p := range valid(t.Onion4, t.Onion6) {
			if !b.TProxy { // else nobody listens there, and it is not forwarded
				unjudged = append(unjudged, newRule(".onion without a class", toPrefix(p), tcp, redirect(t.Trans)))
			}
		}
	}
	var chains []chain
	if b.hasLANs() {
		chains = append(chains, baseChain(chainDivert, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, plan.PriorityRedirect,
			newRule("only what a LAN sends", notFromLAN(), leave()),
			newRule("by class; direct, local and inbound go their way", lookUpClass(b.Mark.ClassMask(), mapDivert))))
	}
	if !b.TProxy {
		chains = append(chains, subChain(chainDivertTrans, newRule("to tor's TransPort", tcp, redirectTo(b.transPort(reg1)))))
	}
	chains = append(chains,
		subChain(chainDivertDNS, b.dnsRules()...),
		subChain(chainDivertResolver,
			newRule("to the sentry, for what DNSPort cannot answer", tcp, redirect(b.Ports.Resolver)),
			newRule("to the sentry, for what DNSPort cannot answer", udp, redirect(b.Ports.Resolver))),
		subChain(chainDivertUnjudged, unjudged...),
		lateRefusal())
	if b.TimeServer {
		chains = append(chains, subChain(chainDivertTime, newRule("to the router's time server, whomever it was sent to", udp, redirect(config.PortNTP))))
	}
	return chains
}

func (b *builder) isClass(v abi.Verdict) []expr.Any {
	return markIs(b.class(v), b.Mark.ClassMask())
}

func (b *builder) isInbound() []expr.Any {
	return ctMarkIs(b.class(abi.VerdictInbound), b.Mark.ClassMask())
}

func (b *builder) markInbound() []expr.Any {
	return setMark(^b.Mark.Mask(), b.class(abi.VerdictInbound))
}
