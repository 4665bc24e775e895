package nft

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// The chains of packets that are about to arrive or to be forwarded.
const (
	chainInput           = "input"
	chainInputPorts      = "input_ports"
	chainInputAwaited    = "input_awaited"
	chainInputUnjudged   = "input_unjudged"
	chainSources         = "sources"
	chainSourcesAwaited  = "sources_awaited"
	chainOutput          = "output"
	chainOutputPorts     = "output_ports"
	chainForward         = "forward"
	chainForwardLocal    = "forward_local"
	chainForwardVia      = "forward_via"
	chainForwardUnjudged = "forward_unjudged"
	chainForwardOthers   = "forward_others"
)

// inputChains keep tor's and the sentry's ports, which listen on all addresses,
// to those whom we diverted there. An accept ends our chain only.
func (b *builder) inputChains() []chain {
	var rules []rule
	if b.Client != nil {
		rules = append(b.besideTor(), newRule("the machine itself, of which nothing comes in", fromLoopback(), accept()))
	}
	rules = append(rules, b.handedRules()...)
	rules = append(rules, b.awaitedRules(goTo(chainInputAwaited))...)
	rules = append(rules,
		newRule("DNS that came in by an interface that is no LAN by this name, so it was not diverted", b.blocked(), notDNAT(), drop(DroppedBlocked)),
		newRule("of no connection, so nothing could divert it", b.blocked(), protocol(unix.IPPROTO_TCP), noConnection(), drop(DroppedBlocked)),
		newRule("of no connection, so nothing could divert it", b.blocked(), protocol(unix.IPPROTO_UDP), noConnection(), drop(DroppedBlocked)),
		newRule("a port of tor's or the sentry's", protocolAndPort(destinationPort), []expr.Any{in(setPorts)}, goTo(chainInputPorts)),
		newRule("a device is deaf to an answer of tc's: the kernel would look for who asked, at the resolver", aboutUntracked(icmp4), drop(DroppedError)),
		newRule("the same for IPv6", aboutUntracked(icmp6), drop(DroppedError)),
		newRule("not judged: tc is gone or the mark was wiped", markIs(0, b.Mark.ClassMask()), fromLAN(), goTo(chainInputUnjudged)))
	chains := []chain{
		baseChain(chainInput, nftables.ChainTypeFilter, nftables.ChainHookInput, plan.PriorityGuard, rules...),
		subChain(chainInputPorts,
			newRule("diverted here", fromLAN(), ctDNAT(), accept()),
			newRule("the router itself", fromLoopback(), accept()),
			newRule("an open proxy to the WAN, a way past the class for a LAN", drop(DroppedPort))),
		subChain(chainInputUnjudged, b.unjudgedInput()...),
		subChain(chainSources, b.sourceRules()...),
	}
	if !b.awaits() {
		return chains
	}
	chains = append(chains, subChain(chainInputAwaited, b.awaitedInput()...))
	if b.strict {
		return chains
	}
	return append(chains, subChain(chainSourcesAwaited, awaitedSources()...))
}

// awaitedInput keeps the router's own resolver from asking in clear, and the router
// from answering a source by another way than the one it came by. What else the
// router is asked stays here: who repairs it may come by this interface.
func (b *builder) awaitedInput() []rule {
	rules := []rule{
		newRule("redirected, by whomever: a proxy would go on in clear", ctDNAT(), drop(DroppedPort)),
		newRule("not even to tor and the sentry", protocolAndPort(destinationPort), []expr.Any{in(setPorts)}, drop(DroppedPort)),
	}
	rules = append(rules, resolverRules("the router's resolver would ask in clear")...)
	if !b.strict {
		return append(rules, newRule("who would be answered", goTo(chainSourcesAwaited)))
	}
	return append(append(rules, onLinkRules(accept())...),
		newRule("this kernel cannot tell by which way an answer would go", drop(DroppedUnjudged)))
}

// awaitedSources are sourceRules for an interface whose subnets nobody knows yet.
func awaitedSources() []rule {
	return append(onLinkRules(leave()),
		newRule("nobody's address, but the kernel would answer it", fromPrefix(netip.MustParsePrefix("::/128")), drop(DroppedUnjudged)),
		newRule("an answer would take another way than back", comesFromElsewhere(), drop(DroppedUnjudged)))
}

// onLinkRules match what is answered on the link only, if at all.
func onLinkRules(then []expr.Any) []rule {
	var rules []rule
	for _, p := range unanswered() {
		rules = append(rules, newRule("answered on the link only", fromPrefix(p), then))
	}
	return append(rules, newRule("neighbour discovery and the like, answered on the link only", linkHousekeeping(), then))
}

// resolverRules keep DNS from the router's own resolver.
func resolverRules(why string) []rule {
	var rules []rule
	for _, number := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for _, port := range []uint16{config.PortDNS, portDNSTLS} {
			rules = append(rules, newRule(why, protocol(number), toPort(port), drop(DroppedUnjudged)))
		}
	}
	return rules
}

// unanswered are sources that are martians to the kernel, or answered on the link.
func unanswered() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("fe80::/10")}
}

// comesFromElsewhere matches what no route leads back to by the interface that it
// came in by (nft: fib saddr . iif oif missing).
func comesFromElsewhere() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
		equal(make([]byte, 4)),
	}
}

// sourceRules do without tc what it does first: a source that no LAN has is forged, and
// whatever answers it (a socket, or the kernel, which complains of hops that are used up
// before chain forward) would say on the WAN what the device has sent. IPv6 answers the
// unspecified source as well, so of that only what looks for neighbours is let in; with IPv4
// it is a martian, but for DHCP.
func (b *builder) sourceRules() []rule {
	var rules []rule
	for _, p := range config.MergePrefixes(append(unanswered(), b.LANPrefixes()...)) {
		rules = append(rules, newRule("from a LAN, or answered on the link only", fromPrefix(p), leave()))
	}
	return append(rules,
		newRule("neighbour discovery and the like, answered on the link only", linkHousekeeping(), leave()),
		newRule("an answer would take the way to the WAN", drop(DroppedUnjudged)))
}

func (b *builder) awaits() bool { return len(b.Waiting)+len(b.Patterns) > 0 }

// looksUp tells whether rules ask for routes (nft_fib), where the kernel can: of what comes
// from an interface that is waited for, and of this machine's own packets.
func (b *builder) looksUp() bool { return b.awaits() || b.Client != nil }

// awaitedRules match what comes in by an interface that no program is on yet: one
// that is waited for, or that has just appeared under a pattern.
func (b *builder) awaitedRules(then []expr.Any) []rule {
	var rules []rule
	for _, name := range b.Waiting {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, name) // lanSet has checked it
		rules = append(rules, newRule("waited for", []expr.Any{meta(expr.MetaKeyIIFNAME), equal(key)}, then))
	}
	return append(rules, b.patternRules(then)...)
}

// patternRules match what comes in by an interface that has appeared under a
// pattern. The comparison ends where the name is left open.
func (b *builder) patternRules(then []expr.Any) []rule {
	var rules []rule
	for _, pattern := range b.Patterns {
		begins := []expr.Any{meta(expr.MetaKeyIIFNAME), equal([]byte(config.PatternPrefix(pattern)))}
		rules = append(rules, newRule("new under "+pattern, notFromLAN(), begins, then))
	}
	return rules
}

// unjudgedInput is for what a LAN sends to the router past tc.
func (b *builder) unjudgedInput() []rule {
	rules := resolverRules("DNS of a flow that is older than what diverts it")
	for _, m := range b.marks {
		rules = append(rules, newRule("exempt by the user's mark", markIs(m.value, m.mask), before(m.until), accept()))
	}
	return append(rules,
		newRule("redirected by a rule of the user's: a proxy would go on in clear", ctDNAT(), drop(DroppedUnjudged)),
		newRule("who would be answered", goTo(chainSources)))
}

// linkHousekeeping matches ICMPv6 types 130 to 137. What hosts report of their
// memberships (143) has no answer, and is for others than a host.
func linkHousekeeping() []expr.Any {
	return icmpv6Types(groupQuery, redirected)
}

// noConnection matches what conntrack knows nothing of: there is no status to ask for.
func noConnection() []expr.Any {
	return ctStateIn(expr.CtStateBitINVALID | expr.CtStateBitUNTRACKED)
}

// blocked matches every class that must not be forwarded.
func (b *builder) blocked() []expr.Any {
	bit := b.Mark.Class(abi.VerdictBlockedBit)
	return markIs(bit, bit)
}

// outputChains keep what answers from those ports to where diverted packets come
// from. A device may claim any source, or one of a LAN that is gone: the answer
// to it would take the way to the WAN, and say there whom the device wanted.
// Answers are still recognised by their port here, since their address is put
// back at postrouting only.
// In client mode one chain does that and guards all else as well (clientGuardChains).
func (b *builder) outputChains() []chain {
	ports := subChain(chainOutputPorts,
		newRule("the router itself", toLoopback(), accept()),
		newRule("any other way but to a LAN", notToLAN(), drop(DroppedAnswer)))
	if b.Client != nil {
		return []chain{ports}
	}
	return []chain{
		baseChain(chainOutput, nftables.ChainTypeFilter, nftables.ChainHookOutput, plan.PriorityGuard, append(b.answersOfTor(), outputRules()...)...),
		ports,
	}
}

// outputRules send answers from our ports where they are judged; who comes back may pass.
func outputRules() []rule {
	return []rule{
		newRule("from a port of tor's or the sentry's", protocolAndPort(sourcePort), []expr.Any{in(setPorts)}, jump(chainOutputPorts)),
		newRule("that nobody listens there, and what was sent", protocol(icmp4.number), repliesFrom(), []expr.Any{in(setPorts)}, jump(chainOutputPorts)),
		newRule("the same for IPv6", protocol(icmp6.number), repliesFrom(), []expr.Any{in(setPorts)}, jump(chainOutputPorts)),
	}
}

// protocolAndPort loads what portSet holds.
func protocolAndPort(offset uint32) []expr.Any {
	return []expr.Any{
		meta(expr.MetaKeyL4PROTO),
		payload(expr.PayloadBaseTransportHeader, offset, 2, word(1)),
	}
}

// repliesFrom loads what portSet holds, of who answers the connection that an error
// is about. The error itself quotes what a device sent, with the addresses put back.
func repliesFrom() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyPROTOCOL, Direction: reply, Register: reg1},
		&expr.Ct{Key: expr.CtKeyPROTOSRC, Direction: reply, Register: word(1)},
	}
}

// icmp is where the two protocols of that name differ.
type icmp struct {
	number, unreachable byte
	echo                byte   // that asks for an answer
	header              uint32 // length of the quoted IP header, without options
}

var (
	icmp4 = icmp{number: unix.IPPROTO_ICMP, unreachable: 3, echo: 8, header: 20}
	icmp6 = icmp{number: unix.IPPROTO_ICMPV6, unreachable: 1, echo: 128, header: 40}
)

// aboutUntracked matches what a LAN says of an answer from port 53 of which conntrack
// knows nothing: tc has given it, in the name of whom was asked.
func aboutUntracked(i icmp) []expr.Any {
	const icmpHeader = 8
	return slices.Concat(
		protocol(i.number),
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 1, reg1), equal([]byte{i.unreachable})},
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, icmpHeader+i.header, 2, reg1), equal(portKey(config.PortDNS)[:2])},
		ctStateIn(expr.CtStateBitINVALID), fromLAN())
}

// forwardVerdicts holds every class that may be forwarded. Those of a
// connection from outside lose that right when the user switches it off.
func (b *builder) forwardVerdicts() map[abi.Verdict]expr.Verdict {
	verdicts := map[abi.Verdict]expr.Verdict{
		abi.VerdictDirect: {Kind: expr.VerdictAccept},
		abi.VerdictLocal:  {Kind: expr.VerdictGoto, Chain: chainForwardLocal},
		abi.VerdictVia:    {Kind: expr.VerdictGoto, Chain: chainForwardVia},
		abi.VerdictNone:   {Kind: expr.VerdictGoto, Chain: chainForwardUnjudged},
	}
	if b.Inbound {
		verdicts[abi.VerdictInbound] = expr.Verdict{Kind: expr.VerdictAccept}
	}
	return verdicts
}

// forwardChains let pass what has a class that may, and what is not a LAN's.
// The class alone decides, so that a blocked one is stopped even when the
// interface it came from has another name by now.
func (b *builder) forwardChains() []chain {
	local, elsewhere := "a subnet behind the interface it was learned on", "the subnet is elsewhere now: this may be the way to the WAN"
	chains := []chain{
		baseChain(chainForward, nftables.ChainTypeFilter, nftables.ChainHookForward, plan.PriorityGuard,
			newRule("direct, as most of what is forwarded from a LAN", b.isClass(abi.VerdictDirect), accept()),
			newRule("by class", lookUpClass(b.Mark.ClassMask(), mapForward)),
			newRule("any other class must not be forwarded", drop(DroppedBlocked))),
		subChain(chainForwardLocal,
			newRule(local, outAndTo(ipv4), []expr.Any{in(setLocal4)}, accept()),
			newRule(local, outAndTo(ipv6), []expr.Any{in(setLocal6)}, accept()),
			newRule(elsewhere, drop(DroppedLocal))),
		subChain(chainForwardVia,
			newRule("by an excluded interface", byExit(), accept()),
			newRule("its route has changed since tc asked: this may be the way to the WAN", drop(DroppedLocal))),
		subChain(chainForwardUnjudged, b.unjudgedRules()...),
	}
	if len(b.Patterns) == 0 {
		return chains
	}
	return append(chains, subChain(chainForwardOthers, append(b.patternRules(drop(DroppedUnjudged)), newRule("not from a LAN", accept()))...))
}

// unjudgedRules see what has no class: all that is not a LAN's, and what a LAN
// sends past tc.
func (b *builder) unjudgedRules() []rule {
	rules := []rule{newRule("not from a LAN", notFromLAN(), accept())}
	if len(b.Patterns) > 0 {
		rules = []rule{newRule("of no LAN by name, but perhaps of one to be", notFromLAN(), goTo(chainForwardOthers))}
	}
	if len(b.marks) > 0 {
		for _, p := range b.onionPrefixes() {
			rules = append(rules, newRule("no mark exempts .onion", toPrefix(p), drop(DroppedUnjudged)))
		}
	}
	for _, m := range b.marks {
		rules = append(rules, newRule("exempt by the user's mark", markIs(m.value, m.mask), before(m.until), accept()))
	}
	return append(rules, newRule("from a LAN and not judged: tc is gone or the mark was wiped", drop(DroppedUnjudged)))
}

// byExit matches what leaves by an interface of the set of exits.
func byExit() []expr.Any {
	return []expr.Any{meta(expr.MetaKeyOIFNAME), in(setExits)}
}

// outAndTo loads what localSet holds.
func outAndTo(f family) []expr.Any {
	return append(isFamily(f),
		meta(expr.MetaKeyOIFNAME),
		payload(expr.PayloadBaseNetworkHeader, f.destination, f.size, word(4)))
}

func (b *builder) onionPrefixes() []netip.Prefix { return valid(b.Onion4, b.Onion6) }

// valid leaves out the prefixes that there are none of.
func valid(prefixes ...netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() })
}
